/* Labels: what an administrator says of nodes and processes, for the rules of policies. */
import { z } from 'zod';

/** As those of Kubernetes: letters, digits, and `.`, `_`, `-` inside; keys may have `/` too. */
const KEY = /^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/;
const VALUE = /^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$/;
const MAX_LABELS = 32;

export type Labels = Readonly<Record<string, string>>;

const KEY_RULE = 'must be letters, digits and inner ".", "_", "-", "/", at most 63 characters';
const VALUE_RULE = 'must be letters, digits and inner ".", "_", "-", at most 63 characters';

/** Settings by the names of labels. @param value what stands for each */
export function byLabel<Value extends z.ZodType>(value: Value) {
  return z
    .record(z.string().regex(KEY), value, {
      error: ({ code }) => (code === 'invalid_key' ? `names a label that ${KEY_RULE}` : undefined),
    })
    .refine((labels) => Object.keys(labels).length <= MAX_LABELS, `must be at most ${MAX_LABELS} labels`);
}

/** The labels of a node in the configuration. */
export const labelsSection = byLabel(
  z.string('must be text (in quotes if it looks like a number)').regex(VALUE, VALUE_RULE),
);

/** Reads `key=value,key=value`. What is no label is left out, and so is what comes after the 32nd: a text may come from anybody. */
export function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = Object.create(null);
  for (const part of text.split(',', 4 * MAX_LABELS)) {
    const at = part.indexOf('=');
    const [key, value] = [part.slice(0, Math.max(at, 0)).trim(), part.slice(at + 1).trim()];
    if (KEY.test(key) && VALUE.test(value) && Object.keys(labels).length < MAX_LABELS) labels[key] = value;
  }
  return { ...labels };
}

/** `rack=r1 disk=ssd` */
export function labelsText(labels: Labels): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(' ');
}
