/** Where the attachments leave their traces: links in bpffs, what we must put back in the run folder. */
export interface AttachmentFolders {
  readonly pins: string;
  readonly run: string;
  /** false: tc programs become filters though the kernel has tcx. */
  readonly tcx?: boolean;
}
