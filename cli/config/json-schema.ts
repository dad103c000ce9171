import { z } from 'zod';
import { configSchema } from './schema.js';

/**
 * The JSON schema of the configuration file, as text, for editors that complete and check YAML. It describes the shape;
 * what one setting says about another (`node` is one of `nodes`, no duplicates) only `loadConfig` checks.
 */
export function configJsonSchema(): string {
  const schema = z.toJSONSchema(configSchema, { io: 'input', target: 'draft-7' });
  return `${JSON.stringify({ title: 'homeproxy.yaml', ...schema }, null, 2)}\n`;
}
