import { z } from 'zod';
import type { QueryAnswer } from './facts.js';
import type { PromqlQuery } from './model.js';

const MAX_BYTES = 1 << 20;
const MAX_VALUES = 10_000;

const sample = z.tuple([z.number(), z.string()]);
const answerSchema = z.discriminatedUnion('status', [
  z.object({
    status: z.literal('success'),
    data: z.discriminatedUnion('resultType', [
      z.object({ resultType: z.literal('vector'), result: z.array(z.object({ value: sample })) }),
      z.object({ resultType: z.literal('scalar'), result: sample }),
    ]),
  }),
  z.object({ status: z.literal('error'), errorType: z.string(), error: z.string() }),
]);

/**
 * Asks a Prometheus server for the present value of an expression (its HTTP API, /api/v1/query). Never throws: a server that
 * does not answer, or not with numbers, is an answer.
 * @param timeoutMs for the whole of it
 */
export async function queryPrometheus({ url, query }: PromqlQuery, timeoutMs: number): Promise<QueryAnswer> {
  const address = new URL(`${url.replace(/\/+$/, '')}/api/v1/query`);
  address.searchParams.set('query', query);
  address.searchParams.set('timeout', `${timeoutMs}ms`);
  try {
    const response = await fetch(address, { signal: AbortSignal.timeout(timeoutMs), redirect: 'error' });
    return valuesOf(await limitedText(response), response.status);
  } catch (error) {
    const { name, message, cause } = error as Error;
    if (name === 'TimeoutError') return { error: `no answer in ${timeoutMs} ms` };
    return { error: cause instanceof Error && cause.message !== '' ? cause.message : message };
  }
}

function valuesOf(text: string, status: number): QueryAnswer {
  const answer = answerSchema.safeParse(parsed(text));
  if (!answer.success) return { error: `status ${status}, and no result of a query for numbers` };
  if (answer.data.status === 'error') return { error: `${answer.data.errorType}: ${answer.data.error}` };
  const { data } = answer.data;
  const samples = data.resultType === 'scalar' ? [data.result] : data.result.map(({ value }) => value);
  // NaN and the infinities are written out; they are neither above nor below anything that a policy means
  const values = samples.map(([, value]) => Number(value)).filter(Number.isFinite);
  return values.length > MAX_VALUES ? { error: `more than ${MAX_VALUES} values` } : { values };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function limitedText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > MAX_BYTES) throw new Error(`an answer of more than ${MAX_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
