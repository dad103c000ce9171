import { Flags } from '@oclif/core';
import { BaseCommand } from './base-command.js';
import { DEFAULT_LAB } from './lab/plan.js';

/** A command about one lab: adds `--lab`. */
export abstract class LabCommand extends BaseCommand {
  static override baseFlags = {
    lab: Flags.string({
      description: 'name of the lab; several can be up side by side',
      env: 'HOMEPROXY_LAB',
      default: DEFAULT_LAB,
      helpValue: 'NAME',
      helpGroup: 'GLOBAL',
    }),
  };
}
