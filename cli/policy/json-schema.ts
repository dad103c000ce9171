import { z } from 'zod';
import { policyFileSchema } from './schema.js';

/** The JSON schema of a policy file, as text, for editors that complete and check YAML; `homeproxy policy check` knows more. */
export function policyJsonSchema(): string {
  const schema = z.toJSONSchema(policyFileSchema, { io: 'input', target: 'draft-7' });
  return `${JSON.stringify({ title: 'policies.yaml', ...schema }, null, 2)}\n`;
}
