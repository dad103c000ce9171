/* Reads Prometheus's text format, strictly enough to find fault with what is none. */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)/y;

/** Every sample of a page. @throws {Error} that names a line which is not one of the format */
export function parsePage(text: string): Sample[] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [, name, labels = '', value] = LINE.exec(line) ?? [];
      if (name === undefined || value === undefined) throw new Error(`not a sample: ${line}`);
      return { name, labels: parseLabels(labels), value: Number(value.replace('Inf', 'Infinity')) };
    });
}

/** The samples of one name that have at least these labels. */
export function samplesOf(text: string, name: string, labels: Readonly<Record<string, string>> = {}): Sample[] {
  const wanted = Object.entries(labels);
  return parsePage(text).filter(
    (sample) => sample.name === name && wanted.every(([label, value]) => sample.labels[label] === value),
  );
}

/** The value of the only sample of that name with these labels. @throws {Error} when there is none, or another one */
export function sampleOf(text: string, name: string, labels: Readonly<Record<string, string>> = {}): number {
  const [sample, ...others] = samplesOf(text, name, labels);
  if (sample !== undefined && others.length === 0) return sample.value;
  throw new Error(`${others.length + (sample === undefined ? 0 : 1)} samples of ${name}${JSON.stringify(labels)}`);
}

/** The sum of the samples of that name that have at least these labels. */
export function sumOf(text: string, name: string, labels: Readonly<Record<string, string>> = {}): number {
  return samplesOf(text, name, labels).reduce((sum, { value }) => sum + value, 0);
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.length) {
    const match = LABEL.exec(text);
    if (match === null) throw new Error(`not labels: ${text}`);
    labels[match[1] ?? ''] = (match[2] ?? '').replace(/\\(.)/g, (_all, letter) => (letter === 'n' ? '\n' : letter));
  }
  return labels;
}
