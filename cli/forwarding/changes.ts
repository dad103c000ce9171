/** Changes to what is attached that stand or fall together. */
export class Changes {
  private readonly undos: (() => void | Promise<void>)[] = [];
  private readonly last: (() => void | Promise<void>)[] = [];
  private readonly held: { close(): void }[] = [];

  /** How to take back what has just been done. */
  undoBy(step: () => void | Promise<void>): void {
    this.undos.push(step);
  }

  /** Something that cannot be taken back: done when all else has succeeded. */
  atLast(step: () => void | Promise<void>): void {
    this.last.push(step);
  }

  /** Closed when the changes are kept or taken back. */
  hold<Closable extends { close(): void }>(closable: Closable): Closable {
    this.held.push(closable);
    return closable;
  }

  async keep(): Promise<void> {
    for (const step of this.last) await step();
    this.end();
  }

  /** Takes everything back, the newest first; one step that fails does not keep the others from it. */
  async takeBack(): Promise<void> {
    for (const step of this.undos.reverse()) {
      try {
        await step();
      } catch {
        // the error that brought us here is the one to be told
      }
    }
    this.end();
  }

  private end(): void {
    for (const closable of this.held) closable.close();
  }
}
