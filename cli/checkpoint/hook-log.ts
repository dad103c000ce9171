import { type FSWatcher, watch } from 'node:fs';
import { readText } from '../system/procfs.js';

/** The file to which CRIU appends each hook that it comes to: it outlives both of us, and inotify tells us of each line. */
export class HookLog {
  private readonly watcher: FSWatcher;
  private readonly waiting: { readonly hook: string; readonly resolve: () => void }[] = [];

  /** @param path must exist. */
  constructor(private readonly path: string) {
    this.watcher = watch(path, () => this.look());
  }

  /** Whether CRIU has come to the hook. */
  seen(hook: string): boolean {
    return (readText(this.path) ?? '').split('\n').includes(hook);
  }

  async waitFor(hook: string): Promise<void> {
    if (this.seen(hook)) return;
    await new Promise<void>((resolve) => {
      this.waiting.push({ hook, resolve });
    });
  }

  close(): void {
    this.watcher.close();
  }

  private look(): void {
    for (const { hook, resolve } of this.waiting) if (this.seen(hook)) resolve();
  }
}
