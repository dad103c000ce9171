/** Correspondents on nodes themselves, and ports of blocks: what each program makes of their packets. */
import '../addon/private-namespaces.js';
import * as assert from 'uvu/assert';
import { DeviceRole } from '../../cli/forwarding/abi.gen.js';
import { loopbackName } from '../../cli/forwarding/loopback.js';
import { suite } from '../suite.js';
import { ARRIVAL_IFINDEX, type Bench, type BindingFields, type ProgramName, type ReasonName } from './bench.js';
import { ethernet, ipv4, Protocol, udp } from './packets.js';
import {
  BINDING,
  CARE_OF,
  CORRESPONDENT,
  careOfBench,
  frame,
  furnish,
  HOME,
  homeBench,
  intoPod,
  onward,
  reply,
  request,
  SERVICE_PORT,
  tunnelled,
} from './scene.js';

const LOOPBACK = '127.0.0.1';
const NAME = loopbackName(HOME, LOOPBACK);
const BLOCK = 65_280;
const NO_MAC = '00:00:00:00:00:00';
const HOMEWARD = '02:68:6f:6d:65:00';
const CRIUS_MARK = 0xc114;

const away: BindingFields = { action: 'tunnel', egress: 'shut', careOf: CARE_OF };
const here: BindingFields = { action: 'deliver', egress: 'open', careOf: HOME };
const local = { source: HOME, destination: HOME } as const;
const loop = { source: LOOPBACK, destination: LOOPBACK } as const;
const overLo = (packet: Uint8Array): Buffer => ethernet({ source: NO_MAC, destination: NO_MAC, type: 0x0800 }, packet);
const homeward = (packet: Uint8Array): Buffer =>
  ethernet({ source: HOMEWARD, destination: HOMEWARD, type: 0x0800 }, packet);

const atHome = homeBench();
const atHost = careOfBench();

function home(binding: BindingFields): Bench {
  return furnish(atHome.clear())
    .bind(BINDING, binding)
    .claim(BINDING, NAME, SERVICE_PORT)
    .local(HOME)
    .setParkState(BINDING, 0, 0)
    .device(ARRIVAL_IFINDEX, BINDING, DeviceRole.park);
}

function host(binding: BindingFields): Bench {
  return furnish(atHost.clear())
    .bind(BINDING, binding)
    .claim(BINDING, NAME, SERVICE_PORT)
    .local(CARE_OF)
    .setParkState(BINDING, 0, 0)
    .device(ARRIVAL_IFINDEX, BINDING, DeviceRole.pod);
}

function expectOf(
  bench: Bench,
  program: ProgramName,
  input: Buffer,
  verdict: string,
  reason: ReasonName,
  output?: Buffer,
): void {
  const outcome = bench.run(program, input);
  assert.equal([outcome.verdict, outcome.reason], [verdict, reason]);
  if (output !== undefined) assert.equal(outcome.frame, output);
}

const lo = suite('what processes of the home node say over lo');
for (const [words, ends] of [
  ['the home address', local],
  ['127.0.0.1', loop],
] as const) {
  lo(`to one that is away, over ${words}: into the tunnel`, () => {
    const said = request(ends);
    expectOf(home(away), 'hp_loopback', overLo(said), 'redirect', 'tunnelled', onward(tunnelled(said)));
  });

  lo(`while it is frozen, over ${words}: parked, and let go as it stands by then`, () => {
    const said = request(ends);
    expectOf(home({ ...away, action: 'park' }), 'hp_loopback', overLo(said), 'redirect', 'parked');
    expectOf(home(away), 'hp_replay', overLo(said), 'redirect', 'tunnelled', onward(tunnelled(said)));
    const back = home({ action: 'pass', egress: 'open', draining: true });
    expectOf(back, 'hp_replay', overLo(said), 'redirect', 'replayed_home', overLo(said));
  });

  lo(`in its name, over ${words}: nobody may`, () => {
    expectOf(home(away), 'hp_loopback', overLo(reply({ ...ends, flags: 'R' })), 'drop', 'guarded');
  });

  lo(`to one that is at home, or to nobody of ours, over ${words}: passes`, () => {
    expectOf(home({ action: 'pass' }), 'hp_loopback', overLo(request(ends)), 'pass', 'at_home');
    expectOf(home(away), 'hp_loopback', overLo(request({ ...ends, port: 80 })), 'pass', 'not_ours');
  });

  lo(`what it answers, over ${words}, comes out of the tunnel into lo`, () => {
    const arrived = frame(tunnelled(reply(ends), { source: CARE_OF, destination: HOME }));
    expectOf(home(away), 'hp_xdp', arrived, 'pass', 'slow_path');
    expectOf(home(away), 'hp_ingress', arrived, 'redirect', 'looped_back', overLo(reply(ends)));
  });

  lo(`what was on its way to it when it came home, over ${words}, goes into lo`, () => {
    const arrived = frame(tunnelled(request(ends), { source: CARE_OF, destination: HOME }));
    expectOf(home({ action: 'pass' }), 'hp_xdp', arrived, 'pass', 'slow_path');
    expectOf(home({ action: 'pass' }), 'hp_ingress', arrived, 'redirect', 'looped_back', overLo(request(ends)));
  });

  lo(`what was on its way to it when it left for another host, over ${words}, follows it`, () => {
    const arrived = frame(tunnelled(request(ends), { source: CARE_OF, destination: HOME }));
    const bench = home({ ...away, careOf: '10.0.0.4' });
    const follows = onward(tunnelled(request(ends), { destination: '10.0.0.4', ttl: 63 }));
    if (ends === local) expectOf(bench, 'hp_xdp', arrived, 'tx', 'tunnelled', follows);
    else expectOf(bench, 'hp_xdp', arrived, 'pass', 'slow_path');
    expectOf(bench, 'hp_ingress', arrived, 'redirect', 'tunnelled', follows);
  });
}

/** One that is away, at the care-of host, says it to another process of this home. */
const toOther = request({ ...loop, port: 80, fromPort: SERVICE_PORT });
const fromAway = frame(tunnelled(toOther, { source: CARE_OF, destination: HOME }));

function withOther(binding: BindingFields): Bench {
  return home(away)
    .bind(BINDING + 1, { ...binding, careOf: '10.0.0.4' })
    .claim(BINDING + 1, NAME, 80);
}

lo('what one that is away says to another that is away goes on to that one', () => {
  const bench = withOther(away);
  expectOf(bench, 'hp_loopback', overLo(toOther), 'drop', 'guarded');
  const onwards = onward(tunnelled(toOther, { destination: '10.0.0.4', ttl: 63 }));
  expectOf(bench, 'hp_ingress', fromAway, 'redirect', 'tunnelled', onwards);
});

lo('and what it says to one that is at home, or to nobody of ours, goes into lo', () => {
  expectOf(withOther({ action: 'pass' }), 'hp_ingress', fromAway, 'redirect', 'looped_back', overLo(toOther));
  expectOf(home(away), 'hp_ingress', fromAway, 'redirect', 'looped_back', overLo(toOther));
});

lo('what it says to one that is frozen waits, and to one of which older packets wait, waits behind them', () => {
  expectOf(withOther({ action: 'park' }), 'hp_ingress', fromAway, 'redirect', 'parked');
  for (const binding of [away, { action: 'pass' }] as const) {
    const bench = withOther({ ...binding, draining: true }).setParkState(BINDING + 1, 2, 1);
    expectOf(bench, 'hp_ingress', fromAway, 'redirect', 'parked');
  }
});

lo('datagrams to one that is about to stand still wait, from whoever they come', () => {
  const said = ipv4(loop, udp(4000, SERVICE_PORT));
  const bench = (): Bench =>
    home({ action: 'pass', hold: 'datagrams' }).claim(BINDING, NAME, SERVICE_PORT, { protocol: Protocol.udp });
  expectOf(bench(), 'hp_loopback', overLo(said), 'redirect', 'parked');
  const arrived = frame(tunnelled(said, { source: CARE_OF, destination: HOME }));
  expectOf(bench(), 'hp_ingress', arrived, 'redirect', 'parked');
});

lo('what says that it is longer than it is, as a packet socket can, passes whatever there is to be done', () => {
  for (const binding of [away, { ...away, action: 'park' }, here, { action: 'drop' }] as const) {
    const said = overLo(request({ ...local, totalLength: 49 }));
    expectOf(home(binding), 'hp_loopback', said, 'pass', 'malformed', said);
  }
});

lo('what CRIU tells a socket that it restores is never parked', () => {
  const fin = overLo(request({ flags: 'FA' }));
  const frozen = home({ action: 'park', egress: 'shut' });
  expectOf(frozen, 'hp_loopback', fin, 'redirect', 'parked');
  const { verdict, reason } = frozen.run('hp_loopback', fin, { mark: CRIUS_MARK });
  assert.equal([verdict, reason], ['pass', 'internal']);
  const inPod = host(here).run('hp_inside', fin, { mark: CRIUS_MARK });
  assert.equal([inPod.verdict, inPod.reason], ['pass', 'internal']);
});

lo('loopback of another home is nothing of ours', () => {
  const arrived = frame(tunnelled(request({ ...loop, port: 80 }), { source: CARE_OF, destination: HOME }));
  expectOf(home(away), 'hp_ingress', arrived, 'pass', 'tunnel_no_binding');
});
lo.run();

const guest = suite('at the care-of host');
guest("loopback's packets of the home reach the pod", () => {
  const arrived = frame(tunnelled(request(loop), { source: HOME, destination: CARE_OF }));
  expectOf(host(here), 'hp_xdp', arrived, 'redirect', 'delivered', intoPod(request(loop)));
  expectOf(host(here), 'hp_ingress', arrived, 'redirect', 'delivered', intoPod(request(loop)));
});

guest('what the pod says to its home goes there in a tunnel, held or not', () => {
  const said = reply(loop);
  const sent = onward(tunnelled(said, { source: CARE_OF, destination: HOME }));
  expectOf(host(here), 'hp_pod', homeward(said), 'redirect', 'reversed', sent);
  expectOf(host({ ...here, egress: 'hold' }), 'hp_pod', homeward(said), 'redirect', 'held', homeward(said));
  expectOf(host(here), 'hp_replay', homeward(said), 'redirect', 'reversed', sent);
  expectOf(host({ ...here, egress: 'shut' }), 'hp_pod', homeward(said), 'drop', 'guarded');
});

guest('what the pod says to the host itself is handed in', () => {
  const said = frame(reply({ destination: CARE_OF }));
  expectOf(host(here), 'hp_pod', said, 'redirect', 'sent', said);
  expectOf(host({ ...here, egress: 'tunnel' }), 'hp_pod', said, 'redirect', 'sent', said);
});

guest('what the host says to a guest goes into its pod, and by way of its home when it is not here for sure', () => {
  const said = request({ source: CARE_OF });
  expectOf(host(here), 'hp_egress', frame(said), 'redirect', 'delivered', intoPod(said));
  for (const binding of [{ action: 'park', egress: 'hold' }, away] as const) {
    expectOf(host(binding), 'hp_egress', frame(said), 'pass', 'at_home', frame(said));
  }
});
guest.run();

const inside = suite('inside a pod');
inside('what no socket is there for goes home', () => {
  const bench = host(here);
  const { verdict, reason, frame: sent } = bench.run('hp_inside', overLo(request(loop)));
  assert.equal([verdict, reason], ['redirect', 'homeward']);
  assert.equal(sent, homeward(request(loop)));
});
inside("loopback's packets are taken from lo, others as they come", () => {
  expectOf(host(here), 'hp_entry', intoPod(request(loop)), 'redirect', 'looped_back', overLo(request(loop)));
  expectOf(host(here), 'hp_entry', intoPod(request()), 'pass', 'delivered', intoPod(request()));
});
inside.run();

const blocks = suite('a block of ports');
blocks('belongs to its binding at its address, TCP and UDP, but for ports that are somebody else’s', () => {
  const bench = home(away).claimBlock(BINDING, HOME, BLOCK);
  const answer = request({ source: CORRESPONDENT, port: BLOCK + 5 });
  expectOf(bench, 'hp_ingress', frame(answer), 'redirect', 'tunnelled', onward(tunnelled(answer)));
  expectOf(bench, 'hp_xdp', frame(answer), 'tx', 'tunnelled', onward(tunnelled(answer)));
  expectOf(bench, 'hp_egress', frame(reply({ fromPort: BLOCK + 63, flags: 'R' })), 'drop', 'guarded');
  expectOf(bench, 'hp_ingress', frame(request({ port: BLOCK + 64 })), 'pass', 'not_ours');
  expectOf(bench, 'hp_ingress', frame(request({ port: BLOCK + 5, destination: '10.0.0.50' })), 'pass', 'not_ours');
  bench.bind(BINDING + 1, { action: 'pass' }).claim(BINDING + 1, HOME, BLOCK + 6);
  expectOf(bench, 'hp_ingress', frame(request({ port: BLOCK + 6 })), 'pass', 'at_home');
});
blocks.run();

process.on('exit', () => {
  atHome.close();
  atHost.close();
});
