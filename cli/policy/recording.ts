import { open } from 'node:fs/promises';
import { z } from 'zod';
import { UserError } from '../errors.js';
import { type Facts, factsSchema } from './facts.js';

const MAX_BYTES = 256 << 20;

/**
 * Reads recorded facts: a JSON list of records, or one record on each line as `homeproxy policy facts --json` prints it.
 * @throws {UserError} `RECORDING_UNREADABLE`, `RECORDING_INVALID` with the record and the field; exit 2
 */
export async function readRecording(path: string): Promise<Facts[]> {
  const records = parseRecords(path, await readLimited(path));
  return records.map(({ value, place }) => {
    const checked = factsSchema.safeParse(value);
    if (checked.success) return checked.data;
    throw invalid(`${path}: ${place}: ${z.prettifyError(checked.error).replaceAll('\n', ' ')}`);
  });
}

async function readLimited(path: string): Promise<string> {
  try {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      if (size > MAX_BYTES) throw invalid(`${path} is larger than ${MAX_BYTES} bytes`);
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError({
      code: 'RECORDING_UNREADABLE',
      message: `cannot read ${path}: ${(error as Error).message}`,
      exitStatus: 2,
      cause: error,
    });
  }
}

interface Record {
  readonly value: unknown;
  /** For people: `record 3` or `line 3`. */
  readonly place: string;
}

function parseRecords(path: string, text: string): Record[] {
  if (text.trimStart().startsWith('[')) {
    const whole = parseJson(text, `${path}`);
    return (whole as unknown[]).map((value, index) => ({ value, place: `record ${index + 1}` }));
  }
  return text.split('\n').flatMap((line, index) => {
    if (line.trim() === '') return [];
    const place = `line ${index + 1}`;
    return [{ value: parseJson(line, `${path}: ${place}`), place }];
  });
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw invalid(`${where}: ${(error as Error).message}`);
  }
}

function invalid(message: string): UserError {
  return new UserError({
    code: 'RECORDING_INVALID',
    message,
    remedy: 'record facts with `homeproxy policy facts --json >> FILE`, again and again',
    exitStatus: 2,
  });
}
