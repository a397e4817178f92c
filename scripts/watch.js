/**
 * `npm run watch`: rebuilds dist/ whenever a file of src/ changes, and stamps it as `npm run build:ts` does, so that
 * the tests accept it (test/support/built-sources.ts). It checks no types and writes no declarations.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import { watch } from 'rolldown';
import config from '../rolldown.config.js';

/** Where the stamp of a build waits until the build has succeeded. */
const PENDING = '.cache/watch';
const CONFIG = 'rolldown.config.js';
const configAtStart = readFileSync(CONFIG, 'utf8');

function watchSources() {
  let isBroken = false;
  let isRepair = false;
  const watcher = watch(config);
  watcher.on('event', async (event) => {
    if (event.code === 'START') {
      isBroken = false;
      // Before any source is read: a file that changes during the build then makes dist/ too old, never too new.
      execFileSync('scripts/stamp-sources.sh', [PENDING, CONFIG, 'src']);
      if (readFileSync(CONFIG, 'utf8') !== configAtStart) {
        console.error(`${CONFIG} has changed. Start the watcher again.`);
        process.exit(1);
      }
    } else if (event.code === 'ERROR') {
      isBroken = true;
      console.error(event.error.message);
    } else if (event.code === 'END') {
      if (isBroken) isRepair = true;
      else if (isRepair) {
        // A change rebuilds only the bundles that contain it; one that failed earlier may not be among them.
        await watcher.close();
        return watchSources();
      } else {
        copyFileSync(`${PENDING}/.sources`, 'dist/.sources');
        console.log(`${new Date().toLocaleTimeString()}  dist/ is up to date`);
      }
    }
    await event.result?.close();
  });
}

mkdirSync(PENDING, { recursive: true });
watchSources();
