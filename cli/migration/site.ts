import type { Config } from '../config/schema.js';
import type { Forwarding } from './binding-control.js';
import type { Guests } from './guests.js';
import type { Journal } from './journal.js';
import type { NodeName } from './messages.js';
import type { Residents } from './residents.js';
import type { Twins } from './twins.js';

/** What every part of a migration needs of the node that it runs on. */
export interface Site {
  readonly node: NodeName;
  readonly nodes: readonly NodeName[];
  readonly journal: Journal;
  readonly forwarding: Forwarding;
  readonly residents: Residents;
  readonly twins: Twins;
  /** Root-only folder, best on a tmpfs, for the images of migrations in progress. */
  readonly imageRoot: string;
  readonly criuPath: string;
  /** Where pods with files of their own have their roots. */
  readonly carriedRoot: string;
  readonly carry: Config['carry'];
  /** Which processes of other nodes may live here. */
  readonly guests: Guests;
  /** For people to read later: what went another way than they may expect. */
  readonly report: (facts: object, message: string) => void;
  readonly timeouts: Config['timeouts'];
  /** Memory is sent no faster, in bytes per second, unless a migration says otherwise. */
  readonly bandwidthLimit: number | undefined;
}
