#!/usr/bin/env node
// Plain JavaScript, because it must run in a fresh clone, before anything was compiled.
import { existsSync } from 'node:fs';
import { userInfo } from 'node:os';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));

// A reader that went away (`| head`) is no failure: what we do goes on, its output goes nowhere.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error) => {
    if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_DESTROYED') throw error;
  });
}

const missing = isInstalled('@oclif/core')
  ? ['dist/cli/base-command.js'].find((file) => !existsSync(`${root}${file}`))
  : 'node_modules/@oclif/core';
if (missing === undefined) {
  await execute();
} else {
  process.stderr.write(
    `error NOT_BUILT: homeproxy is not built yet (${missing} is missing in ${root})\n` +
      '  try: npm run setup      # installs what is missing, then compiles; in that directory\n',
  );
  process.exitCode = 7;
}

/** npm may have put it beside us rather than below us. */
function isInstalled(name) {
  try {
    import.meta.resolve(name);
    return true;
  } catch {
    return false;
  }
}

async function execute() {
  const { run } = await import('@oclif/core');
  nameShell();
  try {
    await run(process.argv.slice(2), import.meta.url);
  } catch (thrown) {
    const { finish } = await import('../../dist/cli/error-report.js');
    finish(thrown, process.argv.slice(2));
  }
}

/** Without SHELL oclif asks for the user's entry in passwd(5), and a user may have none: in a container, or where it was deleted. */
function nameShell() {
  try {
    userInfo();
  } catch {
    process.env.SHELL ??= '/bin/sh';
  }
}
