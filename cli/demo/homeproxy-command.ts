import { z } from 'zod';
import { BugError, ExternalError, fromDocument } from '../errors.js';
import type { LabNode } from '../lab/lab-node.js';
import { lastLines } from '../system/command.js';

const LIMIT_MS = 120_000;

/** The part of the summary of `homeproxy migrate --json` that the demo shows. */
export const moveSummary = z.object({
  from: z.string(),
  to: z.string(),
  outcome: z.string(),
  freezeMs: z.number(),
  totalMs: z.number(),
  phases: z.record(z.string(), z.number()),
  connections: z.number(),
  parkedPackets: z.number(),
  replayedPackets: z.number(),
  droppedPackets: z.number(),
  bytesMoved: z.number(),
  startedAt: z.number(),
  frozenAt: z.number(),
  resumedAt: z.number(),
});
export type MoveSummary = z.infer<typeof moveSummary>;

const failure = z.object({
  error: z.object({
    code: z.string(),
    kind: z.enum(['user', 'external', 'bug']),
    message: z.string(),
    exitStatus: z.number(),
    remedy: z.string().default(''),
    command: z.string().default(''),
    log: z.array(z.string()).default([]),
  }),
});

/**
 * Runs `homeproxy <words> --json` on a node, as an administrator would, and returns its result.
 * @throws {HomeproxyError} the error that it reported
 */
export async function homeproxy<Result>(
  node: LabNode,
  words: readonly string[],
  result: z.ZodType<Result>,
): Promise<Result> {
  const command = ['homeproxy', ...words, '--json'];
  const child = node.spawn(command, ['ignore', 'pipe', 'pipe']);
  const limit = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
  let stdout = '';
  let stderr = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  clearTimeout(limit);
  const printed = lastJson(stdout);
  if (status === 0) {
    const parsed = result.safeParse(printed);
    if (parsed.success) return parsed.data;
    throw new BugError(`${command.join(' ')} printed something unexpected: ${stdout.slice(-300)}`, parsed.error);
  }
  const reported = failure.safeParse(printed);
  if (reported.success) {
    const { remedy, ...error } = reported.data.error;
    throw fromDocument({ ...error, ...(remedy === '' ? {} : { remedy }) });
  }
  throw new ExternalError({
    code: 'DEMO_COMMAND',
    message: `${command.join(' ')} failed on ${node.name}: ${status === null ? 'it was killed' : `exit status ${status}`}`,
    command: command.join(' '),
    log: lastLines(`${stdout}\n${stderr}`, 12),
  });
}

function lastJson(stdout: string): unknown {
  try {
    return JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
  } catch {
    return undefined; // judged by what was expected
  }
}
