import { type Document, isMap, isNode, isScalar, LineCounter, parseDocument } from 'yaml';
import type { z } from 'zod';
import { UserError } from '../errors.js';
import { projectFile } from '../system/project.js';
import { type Config, configSchema } from './schema.js';

type Path = readonly (string | number)[];

interface Problem {
  readonly offset: number;
  readonly path: Path;
  readonly message: string;
}

/** Aliases expand to at most this many nodes: enough for anchors, too few for an "alias bomb". */
const MAX_ALIASES = 100;

/** What a file with problems is called, and where its reader can see how it should look. */
interface Complaint {
  readonly code: string;
  readonly remedy: string;
}

/**
 * Checks the text of a configuration file.
 * @param file the name that problems begin with
 * @throws {UserError} `CONFIG_INVALID`: one line per problem, `file:line:column: path: message`, in the file's order
 */
export function parseConfig(text: string, file: string): Config {
  const remedy = `${projectFile('config/homeproxy.example.yaml')} shows every setting`;
  return parseSettings(text, file, configSchema, { code: 'CONFIG_INVALID', remedy });
}

/**
 * Checks a YAML text by a schema.
 * @param file the name that problems begin with
 * @throws {UserError} `complaint.code`, exit 2: one line per problem, `file:line:column: path: message`, in the file's order
 */
export function parseSettings<Schema extends z.ZodType>(
  text: string,
  file: string,
  schema: Schema,
  complaint: Complaint,
): z.output<Schema> {
  const invalid = (lines: LineCounter, problems: readonly Problem[]): UserError =>
    complaintAbout(file, lines, problems, complaint);
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true, version: '1.2' });
  const syntax = [...document.errors, ...document.warnings].map((error) => ({
    offset: error.pos[0],
    path: [],
    message: error.message,
  }));
  if (syntax.length > 0) throw invalid(lines, syntax);
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    throw invalid(lines, [{ offset: 0, path: [], message: (error as Error).message }]);
  }
  const checked = schema.safeParse(value ?? {});
  if (checked.success) return checked.data;
  throw invalid(
    lines,
    checked.error.issues.flatMap((issue) => problemsOf(issue, document)),
  );
}

function problemsOf(issue: z.core.$ZodIssue, document: Document): Problem[] {
  const path = issue.path.map((part) => (typeof part === 'symbol' ? String(part) : part));
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      offset: keyOffset(document, path, key),
      path: [...path, key],
      message: 'is not a known setting',
    }));
  }
  return [{ offset: valueOffset(document, path), path, message: wording(issue, document, path) }];
}

function wording(issue: z.core.$ZodIssue, document: Document, path: Path): string {
  if (issue.code !== 'invalid_type') return issue.message;
  if (!document.hasIn(path) || path.length === 0) return path.length === 0 ? 'must hold settings' : 'is missing';
  const names: Record<string, string> = {
    object: 'settings (key: value)',
    array: 'a list',
    string: 'text',
    int: 'a whole number',
  };
  if (issue.message.startsWith('must')) return issue.message;
  return `must be ${names[issue.expected] ?? issue.expected}`;
}

/** Where the value is; for a missing one, its nearest parent. */
function valueOffset(document: Document, path: Path): number {
  for (let length = path.length; length >= 0; length--) {
    const node = document.getIn(path.slice(0, length), true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return 0;
}

/** Where an unknown key itself is. */
function keyOffset(document: Document, path: Path, key: string): number {
  const parent = document.getIn(path, true);
  if (isMap(parent)) {
    const pair = parent.items.find((item) => isScalar(item.key) && String(item.key.value) === key);
    if (isScalar(pair?.key) && pair.key.range) return pair.key.range[0];
  }
  return valueOffset(document, path);
}

function complaintAbout(
  file: string,
  lines: LineCounter,
  problems: readonly Problem[],
  complaint: Complaint,
): UserError {
  const text = [...problems]
    .sort((a, b) => a.offset - b.offset)
    .map(({ offset, path, message }) => {
      const { line, col } = lines.linePos(offset);
      const place = `${file}:${Math.max(line, 1)}:${Math.max(col, 1)}`;
      return path.length === 0 ? `${place}: ${message}` : `${place}: ${pathText(path)}: ${message}`;
    });
  return new UserError({
    ...complaint,
    message: text.join('\n'),
    exitStatus: 2,
  });
}

/** `nodes[1].address` */
function pathText(path: Path): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`;
    return text === '' ? part : `${text}.${part}`;
  }, '');
}
