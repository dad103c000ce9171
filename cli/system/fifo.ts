import { constants, openSync } from 'node:fs';

/** A FIFO opened for writing, once somebody reads it or waits to; undefined before, and when it is gone (fifo(7)). */
export function openForReader(path: string): number | undefined {
  try {
    return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENXIO' || code === 'ENOENT') return undefined;
    throw error;
  }
}
