/** The folders that a VM needs beside its own, before QEMU is started. */
import { chmodSync, chownSync, existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import type { LaunchPlan } from '../launch/launch-plan.js';
import { runtimeFolderOf } from '../vms/places.js';
import { OWN_FOLDER } from '../qemu/own-identity.js';
import type { VmFolder } from '../vms/folder.js';

/** For its owner, and for others to pass through, who cannot look at what is there. */
const PASSABLE = 0o711;

export function makePlaces({ directory }: VmFolder, plan: LaunchPlan): void {
  const { socketFolder, socketOwner, needsOwnFolder } = plan;
  if (socketFolder !== directory) mkdirSync(socketFolder, { recursive: true, mode: 0o700 });
  const own = path.join(socketFolder, OWN_FOLDER);
  if (needsOwnFolder && !existsSync(own)) mkdirSync(own, { mode: 0o700 });
  if (socketOwner === undefined) return;
  for (const folder of [runtimeFolderOf(directory), path.dirname(socketFolder)]) chmodSync(folder, PASSABLE);
  const given = needsOwnFolder ? [socketFolder, own] : [socketFolder];
  for (const folder of given) chownSync(folder, socketOwner.uid, socketOwner.gid);
}
