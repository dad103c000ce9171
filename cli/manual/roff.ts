/** Text as it may stand in a man page (groff_man(7)): no line of it is a request, and hyphens are those that can be copied. */
export function roff(words: string): string {
  return words
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .split('\n')
    .map((line) => (/^[.']/.test(line) ? `\\&${line}` : line))
    .join('\n');
}

/** Paragraphs (parted by empty lines) in which single line breaks count; words in `backquotes` are bold. */
export function paragraphs(text: string): string {
  const blocks = text.trim().split(/\n{2,}/);
  return blocks.map((block) => bold(roff(block).split('\n').join('\n.br\n'))).join('\n.PP\n');
}

/** One entry of a list: the tag, and what it means. */
export function entry(tag: string, meaning: string): string {
  return `.TP\n\\fB${roff(tag)}\\fR\n${bold(roff(meaning))}`;
}

function bold(text: string): string {
  return text.replaceAll(/`([^`\n]+)`/g, '\\fB$1\\fR');
}
