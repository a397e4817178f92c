/** What trust.ts and host-resources.ts both know of QEMU's devices. */

/** Emulated devices: what they do to the host they do through back-ends, which are checked by themselves. */
export const EMULATED_DEVICES: readonly RegExp[] = [
  /^virtio-(blk|net|scsi|serial|rng|balloon|gpu|vga|keyboard|mouse|tablet|crypto|mem|pmem|iommu)(-pci|-device|-pci-(non-)?transitional)?$/,
  /^(virtconsole|virtserialport|isa-serial|isa-parallel|isa-debugcon|isa-debug-exit|pci-serial(-[24]x)?)$/,
  /^(scsi-hd|scsi-cd|ide-hd|ide-cd|ich9-ahci|ahci|nvme|nvme-ns|nvme-subsys|lsi53c895a|megasas|mptsas1068|pvscsi)$/,
  /^(floppy|isa-fdc|usb-storage)$/,
  /^(e1000|e1000e|e1000-82\w+|igb|rtl8139|vmxnet3|ne2k_pci|pcnet|tulip|i8255\w+)$/,
  /^(pci-bridge|pcie-root-port|pcie-pci-bridge|ioh3420|i82801b11-bridge|x3130-upstream|xio3130-downstream|pxb|pxb-pcie)$/,
  /^(piix[34]-usb-uhci|usb-ehci|ich9-usb-\w+|nec-usb-xhci|qemu-xhci|usb-(tablet|mouse|kbd|hub))$/,
  /^(VGA|secondary-vga|cirrus-vga|qxl|qxl-vga|bochs-display|ramfb|vmware-svga|vmmouse)$/,
  /^(intel-hda|ich9-intel-hda|hda-(duplex|micro|output)|AC97|ES1370|sb16)$/,
  /^(intel-iommu|amd-iommu|pvpanic|pvpanic-pci|vmgenid|vmcoreinfo|i6300esb|ib700|pc-dimm|[\w.-]+-x86_64-cpu)$/,
];
/** Properties of emulated devices that reach for the host. */
export const REACHING_PROPERTY =
  /^(sysfsdev|host|hostbus|hostaddr|hostdevice|evdev|rootdir|vhostfds?|vhost|file|path|datafile|pcap|spdm_port|ebpf-rss-fds)$/;
