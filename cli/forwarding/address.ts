import ipaddr from 'ipaddr.js';
import type { AddressStruct } from './abi.gen.js';

/** Third word of a mapped IPv4 address (RFC 4291, 2.5.5.2), which lies in network order. */
export const MAPPED = 0xffff0000;

/** An address in the datapath's form: 16 bytes in network order, IPv4 mapped (RFC 4291, 2.5.5.2), as host integers. */
export function encodeAddress(text: string): AddressStruct {
  const parsed = ipaddr.parse(text);
  const ipv6 = parsed.kind() === 'ipv4' ? (parsed as ipaddr.IPv4).toIPv4MappedAddress() : (parsed as ipaddr.IPv6);
  const bytes = Buffer.from(ipv6.toByteArray());
  return { word: [0, 4, 8, 12].map((offset) => bytes.readUInt32LE(offset)) };
}

/** The shortest text of an address; a mapped one as IPv4. */
export function decodeAddress({ word }: AddressStruct): string {
  const bytes = Buffer.alloc(16);
  word.forEach((value, index) => {
    bytes.writeUInt32LE(value, 4 * index);
  });
  return ipaddr.process(ipaddr.fromByteArray([...bytes]).toString()).toString();
}

/** The 16 bytes themselves. */
export function addressBytes(text: string): Buffer {
  const bytes = Buffer.alloc(16);
  encodeAddress(text).word.forEach((value, index) => {
    bytes.writeUInt32LE(value, 4 * index);
  });
  return bytes;
}

/** `02:00:5e:...` as six bytes. */
export function encodeMac(text: string): Buffer {
  return Buffer.from(text.split(':').map((byte) => Number.parseInt(byte, 16)));
}

/** As the kernel's own tables have it: 4 bytes of IPv4, 16 of IPv6. */
export function kernelAddress(text: string): Buffer {
  return Buffer.from(ipaddr.process(text).toByteArray());
}
