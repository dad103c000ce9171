import { networkInterfaces } from 'node:os';
import ipaddr from 'ipaddr.js';
import type { RouteMonitor } from '../system/route-monitor.js';
import type { Tables } from './tables.js';

/** Tells the datapath which addresses are this node's own, now and whenever they change. @returns a function that ends it */
export function followLocalAddresses(tables: Tables, monitor: RouteMonitor): () => void {
  tables.setLocalAddresses(readLocalAddresses());
  return monitor.listen((changes) => {
    if (changes.some(({ kind }) => kind === 'routes' || kind === 'lost'))
      tables.setLocalAddresses(readLocalAddresses());
  });
}

/** Those that mean the same on all links, without loopback's. */
function readLocalAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((addresses = []) => addresses.filter(({ internal, address }) => !internal || !isLoopback(address)))
    .map(({ address }) => ipaddr.parse(address.split('%')[0] ?? address))
    .filter((address) => address.range() !== 'linkLocal')
    .map((address) => address.toString());
}

function isLoopback(address: string): boolean {
  return ipaddr.parse(address).range() === 'loopback';
}
