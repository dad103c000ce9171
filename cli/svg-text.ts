/* What every SVG of ours is written with. */

/** A piece of text as an SVG element; `kind` is its class. */
export function text(
  x: number,
  y: number,
  words: string,
  kind: string,
  anchor: 'start' | 'middle' | 'end' = 'start',
): string {
  return `<text class="${kind}" x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${xmlText(words)}</text>`;
}

/** A tenth of a pixel is as fine as anybody can see. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Text as it may stand in XML or HTML, in an attribute too. */
export function xmlText(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
