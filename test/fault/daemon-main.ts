/*
 * node dist/test/fault/daemon-main.js up
 * The daemon, which stops at the step that a file names until another file lets it go on. Only labs of the fault tests start it:
 * the product itself knows no fault points.
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { observeSteps } from '../../cli/migration/steps.js';
import { readText } from '../../cli/system/procfs.js';
import { projectFile } from '../../cli/system/project.js';
import { ARRIVED, FAULT_FOLDER, GO, STOP_AT } from './fault-files.js';

mkdirSync(FAULT_FOLDER, { recursive: true });
observeSteps(async (step) => {
  if (readText(STOP_AT) !== step) return;
  rmSync(STOP_AT);
  writeFileSync(ARRIVED, step);
  while (!existsSync(GO)) await pause(2);
  for (const file of [ARRIVED, GO]) rmSync(file, { force: true });
});
await import(projectFile('cli/bin/run.js'));
