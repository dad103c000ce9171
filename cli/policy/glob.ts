import type { Labels } from '../config/labels.js';

/**
 * Whether a whole text matches a pattern in which `*` stands for any characters and `?` for one. No regular expression: the
 * time is at most the product of both lengths, whatever the pattern, so that no policy can make the daemon stand still.
 */
export function matchesGlob(pattern: string, text: string): boolean {
  let at = 0;
  let inText = 0;
  let star = -1; // where to go on when what follows the last star did not fit
  let retry = 0;
  while (inText < text.length) {
    if (pattern[at] === '*') {
      star = at++;
      retry = inText;
    } else if (at < pattern.length && (pattern[at] === '?' || pattern[at] === text[inText])) {
      at++;
      inText++;
    } else if (star >= 0) {
      at = star + 1;
      inText = ++retry;
    } else return false;
  }
  while (pattern[at] === '*') at++;
  return at === pattern.length;
}

/** Whether a pattern says anything: one of wildcards alone would choose every process. */
export function isSelective(pattern: string): boolean {
  return /[^*?]/.test(pattern);
}

/** Whether a label is there, with a value that one of the patterns matches. */
export function matchesLabel(labels: Labels, label: string, patterns: readonly string[]): boolean {
  const value = Object.hasOwn(labels, label) ? labels[label] : undefined;
  return value !== undefined && patterns.some((pattern) => matchesGlob(pattern, value));
}

/** Whether a text has wildcards at all. */
export function isGlob(text: string): boolean {
  return /[*?]/.test(text);
}
