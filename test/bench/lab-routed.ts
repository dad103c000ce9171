import type { LabNode } from '../../cli/lab/lab-node.js';

/** An address of its own for the servers, which only plain routing knows. */
const SERVICE = '10.99.0.1';

export interface RoutedWay {
  readonly client: LabNode;
  readonly home: LabNode;
  readonly host: LabNode;
  readonly signal: AbortSignal;
}

/**
 * Has the client's kernel send what is for the servers to the home node, and that one's send it on to the host: no tunnel, no
 * translation, no pod; answers go straight to the client. Nobody could use it, since all clients had to know the route: it
 * is the least that a way through the home node costs on this machine.
 * @returns the servers' address, and what takes the routes away again
 */
export async function routeThroughHome(way: RoutedWay): Promise<{ address: string; close: () => Promise<void> }> {
  const { client, home, host, signal } = way;
  const changes: [node: LabNode, what: string[]][] = [
    [host, ['addr', 'add', `${SERVICE}/32`, 'dev', 'lo']],
    [home, ['route', 'add', SERVICE, 'via', host.address]],
    [client, ['route', 'add', SERVICE, 'via', home.address]],
  ];
  const settings = [
    'net.ipv4.ip_forward=1',
    ...['all', 'eth0'].map((link) => `net.ipv4.conf.${link}.send_redirects=0`),
  ];
  await home.run(['sysctl', '--quiet', '--write', ...settings], { signal });
  for (const [node, what] of changes) await node.run(['ip', ...what], { signal });
  const close = async (): Promise<void> => {
    for (const [node, [object = '', , ...rest]] of changes) await node.run(['ip', object, 'del', ...rest]);
  };
  return { address: SERVICE, close };
}
