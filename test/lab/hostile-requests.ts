import * as fc from 'fast-check';
import { z } from 'zod';

/** What of JSON Schema the descriptions of our methods use (zod's own export of them). */
interface Schema {
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly pattern?: string;
}

/** What the attacker knows of the nodes: values that a string or number is drawn from, beside random ones. */
export interface Knowledge {
  readonly migrations: readonly string[];
  readonly twins: readonly string[];
  readonly words: readonly string[];
  readonly numbers: readonly number[];
}

/** Things that break programs which build paths, addresses, texts or sizes of them. */
const WORDS = [
  '',
  '.',
  '../../etc/passwd',
  '/proc/self/mem',
  '/dev/zero',
  'a\0b',
  '\u202e\ud800',
  '-rf',
  '$(reboot)',
  '%n',
];
const ADDRESSES = [
  '0.0.0.0',
  '255.255.255.255',
  '127.0.0.1',
  '::',
  '::1',
  'ff02::1',
  '::ffff:10.77.0.2',
  '10.77.0.2',
  '1',
];
const NUMBERS = [0, 1, -1, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32, Number.MAX_SAFE_INTEGER, 1.5];

/** Requests that a method's description allows, and next to them ones that it does not. */
export function requestsOf(schema: z.ZodType, knowledge: Knowledge): fc.Arbitrary<unknown> {
  const described = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as Schema;
  return fc.oneof(
    { weight: 6, arbitrary: part(described, knowledge, 1) },
    { weight: 3, arbitrary: part(described, knowledge, 0.9) },
    { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 3 }) },
  );
}

/** @param order how likely each part is as described, 0 to 1 */
function part(schema: Schema, knowledge: Knowledge, order: number): fc.Arbitrary<unknown> {
  const well = described(schema, knowledge, order);
  if (order >= 1) return well;
  const weight = Math.round(order * 100);
  return fc.oneof({ weight, arbitrary: well }, { weight: 100 - weight, arbitrary: fc.jsonValue({ maxDepth: 2 }) });
}

function described(schema: Schema, knowledge: Knowledge, order: number): fc.Arbitrary<unknown> {
  const variants = schema.anyOf ?? schema.oneOf;
  if (schema.const !== undefined) return fc.constant(schema.const);
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  if (variants !== undefined) return fc.oneof(...variants.map((variant) => part(variant, knowledge, order)));
  switch (schema.type) {
    case 'object':
      return fc.record(
        Object.fromEntries(
          Object.entries(schema.properties ?? {}).map(([name, each]) => [name, part(each, knowledge, order)]),
        ),
        { requiredKeys: order >= 1 ? [...(schema.required ?? [])] : [] },
      );
    case 'array':
      return fc.array(part(schema.items ?? {}, knowledge, order), { maxLength: 6 });
    case 'integer':
    case 'number':
      return fc.oneof(fc.nat(70_000), fc.constantFrom(...NUMBERS, ...knowledge.numbers));
    case 'boolean':
      return fc.boolean();
    case 'string':
      return stringOf(schema.pattern, knowledge);
    default:
      return fc.jsonValue({ maxDepth: 2 });
  }
}

function stringOf(pattern: string | undefined, { migrations, twins, words }: Knowledge): fc.Arbitrary<string> {
  const known = [...migrations, ...twins, ...words, ...words, ...words, ...WORDS, ...ADDRESSES];
  if (pattern === undefined) return fc.oneof(fc.constantFrom(...known), fc.string({ unit: 'binary', maxLength: 200 }));
  const fitting = known.filter((word) => new RegExp(pattern, 'u').test(word));
  const random = fc.stringMatching(new RegExp(pattern, 'u'));
  return fitting.length === 0 ? random : fc.oneof(fc.constantFrom(...fitting), random);
}
