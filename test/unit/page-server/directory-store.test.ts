import { DirectoryStore } from '../../../src/page-server/directory-store.js';
import { describeRemoteStore } from './contract.js';

describeRemoteStore('a folder', (storeDir) => DirectoryStore.open(storeDir));
