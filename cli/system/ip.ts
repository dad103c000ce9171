import { z } from 'zod';
import { run } from './command.js';

const linkSchema = z.object({
  ifindex: z.number().int(),
  ifname: z.string(),
  mtu: z.number().int(),
  address: z.string().optional(),
  operstate: z.string().optional(),
  linkinfo: z.object({ info_kind: z.string().optional() }).optional(),
});
export type Link = z.infer<typeof linkSchema>;

const addressSchema = z.object({
  ifname: z.string(),
  addr_info: z.array(z.object({ local: z.string().optional() })).default([]),
});

async function query<Row extends z.ZodType>(schema: Row, args: readonly string[]): Promise<z.infer<Row>[]> {
  const { stdout } = await run('ip', ['-j', '-d', ...args]);
  const rows = stdout.trim() === '' ? [] : (JSON.parse(stdout) as object[]);
  // `ip` prints an empty object for what a filter left out
  return z.array(schema).parse(rows.filter((row) => Object.keys(row).length > 0));
}

/** One interface. @throws {ExternalError} when there is none of that name. */
export async function readLink(name: string): Promise<Link> {
  const [link] = await query(linkSchema, ['link', 'show', 'dev', name]);
  if (link === undefined) throw new Error(`ip shows no interface ${name}`);
  return link;
}

/** All interfaces. */
export async function readLinks(): Promise<Link[]> {
  return query(linkSchema, ['link', 'show']);
}

/** Name of the interface that has an address. */
export async function interfaceOf(address: string): Promise<string | undefined> {
  const rows = await query(addressSchema, ['address', 'show']);
  return rows.find((row) => row.addr_info.some(({ local }) => local === address))?.ifname;
}
