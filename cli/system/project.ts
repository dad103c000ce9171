import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** A file that ships with the product, by its path in the checkout or the installed package. */
export function projectFile(path: string): string {
  return fileURLToPath(new URL(`../../../${path}`, import.meta.url));
}

/** The version in package.json. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(projectFile('package.json'), 'utf8')) as { version: string }).version;
}
