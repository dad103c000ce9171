export interface StreamOptions {
  readonly host: string;
  readonly port: number;
  /** Where the stream is, for example `/live`. */
  readonly mount: string;
  readonly password: string;
  readonly listeners: number;
}

export interface StreamResult {
  /** Frames that the source has fed. */
  readonly sent: number;
  /** Frames that all listeners together have got. */
  readonly heard: number;
  /** In words, each kind once. */
  readonly faults: readonly string[];
}
