/** Creates the folders that a VM needs besides its own, before QEMU starts. */
import { chmodSync, chownSync, existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import type { LaunchPlan } from '../launch/launch-plan.js';
import { runtimeFolderOf } from '../vms/places.js';
import { OWN_FOLDER } from '../qemu/own-identity.js';
import type { VmFolder } from '../vms/folder.js';

/** The owner has all rights; others may pass through but not list. */
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
