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

const routeSchema = z.object({
  dst: z.string(),
  gateway: z.string().optional(),
  dev: z.string(),
  prefsrc: z.string().optional(),
  metrics: z.array(z.object({ mtu: z.number().int().optional() })).optional(),
});
export type Route = z.infer<typeof routeSchema>;

const neighbourSchema = z.object({
  dst: z.string(),
  lladdr: z.string().optional(),
  state: z.array(z.string()).default([]),
});
export type Neighbour = z.infer<typeof neighbourSchema>;

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

/** Name of the interface that has an address. */
export async function interfaceOf(address: string): Promise<string | undefined> {
  const rows = await query(addressSchema, ['address', 'show']);
  return rows.find((row) => row.addr_info.some(({ local }) => local === address))?.ifname;
}

/** How the kernel would send to an address. @throws {ExternalError} when it is unreachable. */
export async function routeTo(address: string): Promise<Route> {
  const [route] = await query(routeSchema, ['route', 'get', address]);
  if (route === undefined) throw new Error(`no route to ${address}`);
  return route;
}

/** The kernel's neighbour entry, if it has one. */
export async function readNeighbour(address: string, device: string): Promise<Neighbour | undefined> {
  const [neighbour] = await query(neighbourSchema, ['neighbour', 'show', address, 'dev', device]);
  return neighbour;
}
