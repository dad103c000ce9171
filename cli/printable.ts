/** Colours, bold: what `ux.colorize` makes. */
const STYLE = String.raw`\u001b\[[\d;]*m`;
const HARMFUL = String.raw`[^\P{C}\n\t]`;
const ANY_HARMFUL = new RegExp(HARMFUL, 'gu');
const STYLE_OR_HARMFUL = new RegExp(`(${STYLE})|${HARMFUL}`, 'gu');

/**
 * A text of others for a terminal. Processes, and nodes that mean harm, call things what they like: escape sequences, which move the
 * cursor, hide what follows, or type an answer in the reader's name, become question marks. Lines and tabs stay.
 */
export function printable(text: string): string {
  return text.replace(ANY_HARMFUL, '?');
}

/** The same of a text in which our own colours are. */
export function printableStyled(text: string): string {
  return text.replace(STYLE_OR_HARMFUL, (_found, style: string | undefined) => style ?? '?');
}
