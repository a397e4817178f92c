import { runPageServer } from '../../support/page-servers.js';
import { describeRemoteStore } from './contract.js';

describeRemoteStore('a page server', async (storeDir) => (await runPageServer(storeDir, 'unix')).connect());
