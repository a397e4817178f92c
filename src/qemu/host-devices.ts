/**
 * The devices and block drivers that by themselves touch nothing of the host: rows of the table in host-resources.ts.
 */
import { propertiesOf, type Option } from './command-line.js';
import { EMULATED_DEVICES, REACHING_PROPERTY } from './emulated-devices.js';
import type { Touch } from './host-visit.js';

/** Other devices that are emulated, or use a back-end that has a row of its own. */
const OTHER_DEVICES: readonly RegExp[] = [
  /^virtio-(9p|sound|multitouch|nsm|rtc|gpu-gl|mmio)(-pci|-device|-pci-(non-)?transitional)?$/,
  /^virtio-vga-gl$/,
  /^usb-(serial|braille|ccid|net|audio|bot|uas|wacom-tablet|redir|bt-dongle)$/,
  /^(ccid-card-passthru|sd-card|sdhci-pci|nvdimm|loader|guest-loader|edu|pci-testdev|pc-testdev)$/,
  /^(tpm-(tis|crb|spapr|tis-device|tis-i2c)|isa-(vga|cirrus-vga|applesmc|ide|ipmi-(kcs|bt))|ipmi-bmc-sim)$/,
  /^(am53c974|dc390|megasas-gen2|lsi53c810|piix[34]-ide|sysbus-ahci|ufs|ufs-lu|scsi-disk)$/,
  /^(pci-bridge-seat|pci-ohci|i82562|i82801|ne2k_isa|i8042|ati-vga|i2c-ddc|ipoctal232|tpci200|hyperv-testdev)$/,
  /^(ctucan_pci|kvaser_pci|mioe3680_pci|pcm3680_pci|pci-ipmi-(bt|kcs)|smbus-ipmi)$/,
  /^(adlib|cs4231a|gus|hv-balloon|vmbus-bridge|vmclock|rocker|sga|pxb-cxl|cxl-(rp|type3|upstream|downstream))$/,
];
/** Devices of the host that only one program can use. */
const SINGLE_DEVICES = /^(usb-host|vfio-|vhost-|ivshmem|scsi-(block|generic)$|u2f-|virtio-input-host|x-vfio)/;

/** Undefined for a device that touches nothing of the host. */
export function touchOfDevice(option: Option, driver: string): Touch | undefined {
  if (SINGLE_DEVICES.test(driver)) return 'single';
  // A folder of the host, as with -virtfs.
  if (driver === 'usb-mtp') return 'shared';
  if (![...EMULATED_DEVICES, ...OTHER_DEVICES].some((pattern) => pattern.test(driver))) return 'unknown';
  return propertiesOf(option).some(({ key }) => REACHING_PROPERTY.test(key)) ? 'unknown' : undefined;
}

/** Drivers that open an image or a connection which others may open as well, as long as none of them writes to it. */
const BLOCK_DRIVERS: ReadonlySet<string> = new Set(
  `file host_device host_cdrom raw qcow2 qcow qed vdi vhdx vmdk vpc dmg bochs cloop parallels luks null-co null-aio throttle
  copy-on-read nbd http https ftp ftps ssh rbd gluster nfs iscsi vvfat quorum preallocate compress blkdebug snapshot-access`.split(
    /\s+/,
  ),
);
/** Other prefixes of file names that lead to one of these drivers. */
const PROTOCOL_ALIASES: ReadonlySet<string> = new Set(
  'fat gluster+tcp gluster+unix gluster+rdma nbd+tcp nbd+unix'.split(' '),
);

/** Whether known drivers open everything that the option opens. */
export function isKnownBlockDriver(option: Option): boolean {
  const isPath = /^(hd[a-d]|fd[ab]|cdrom|sd|mtdblock|pflash)$/.test(option.name);
  const properties = isPath ? [{ key: 'file', value: option.value ?? '' }] : propertiesOf(option);
  return properties.every(({ key, value }) => {
    if (/(^|\.)driver$|^format$/.test(key)) return BLOCK_DRIVERS.has(value);
    if (!/(^|\.)(file|filename)$/.test(key)) return true;
    if (value.startsWith('json:'))
      return isKnownBlockDriver({ name: 'blockdev', value: value.slice('json:'.length) });
    const protocol = /^([A-Za-z][A-Za-z0-9+.-]*):/.exec(value)?.[1];
    return protocol === undefined || BLOCK_DRIVERS.has(protocol) || PROTOCOL_ALIASES.has(protocol);
  });
}
