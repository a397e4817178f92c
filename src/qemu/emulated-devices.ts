/** What trust.ts and host-resources.ts share about QEMU's devices. */

/** Emulated devices. They affect the host only through back-ends, which are checked separately. */
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
/** Properties of emulated devices that reach the host. */
export const REACHING_PROPERTY =
  /^(sysfsdev|host|hostbus|hostaddr|hostdevice|evdev|rootdir|vhostfds?|vhost|file|path|datafile|pcap|spdm_port|ebpf-rss-fds)$/;

/**
 * Their properties that stay within the guest, or name a back-end by its id; romfile is a file. Source: `-device
 * X,help` of QEMU 7.2, 10 and 11.
 */
export const GUEST_PROPERTIES: ReadonlySet<string> = new Set(
  `account-failed account-invalid acpi-index addr aer aer_log_max aer_max_queued aerl any_layout atomic.awun
  atomic.awupf atomic.dn atomic.nabo atomic.nabsn atomic.nabspf atomic.nawun atomic.nawupf ats audiodev
  autonegotiation aw-bits backend_defaults bandwidth baudbase big-endian-framebuffer bios-chs-trans blitter blob
  block-size boot-bypass bootindex bootindexA bootindexB bus bus-reserve bus_nr busnr bypass_iommu caching-mode cad
  channel chardev chardev1 chardev2 chardev3 chardev4 chassis chassis_nr class cmb_size_mb cmd_per_lun
  conditional-intr-mapping config-wce cryptodev csum ctratt.mem ctrl_guest_offloads ctrl_mac_addr ctrl_rx
  ctrl_rx_extra ctrl_vlan ctrl_vq cyls dbcs deflate-on-oom detached device-iotlb device_id disable-acs
  disable-legacy disable-modern disable_vnet_hdr discard discard_granularity display dma dma-drain dma-remap
  dma-translation dma16 dpofua drive drive-type driver duplex dynamic-memslots edid eim emergency-write eui64
  eui64-default event_idx events extra_mac_registers failover failover_pair_id fallback fdp fdp.nrg fdp.nruh
  fdp.ruhs fdp.runs fdtypeA fdtypeB firmware-version firstport force-pcie-endcap free-page-hint free-page-reporting
  fs1gp fsts global-vmstate granule gso guest_announce guest_csum guest_ecn guest_rsc_ext guest_tso4 guest_tso6
  guest_tunnel guest_tunnel_csum guest_ufo guest_uso4 guest_uso6 guid hash hash-ipv4 hash-ipv6 hash-ipv6ex hash-tcp4
  hash-tcp6 hash-tcp6ex hash-udp4 hash-udp6 hash-udp6ex hba_serial head heads host_ecn host_mtu host_tso4 host_tso6
  host_tunnel host_tunnel_csum host_ufo host_uso hostmem hotplug id in_order index indirect_desc init-vet intremap
  intrs io-reserve iobase ioeventfd iommu_platform ioport iosize iothread iothread-vq-mapping lcyls legacy-cmb
  len-reserved-regions lheads logical_block_size lsecs lun mac masterbus max-bytes max-discard-sectors
  max-write-zeroes-sectors max_cmds max_hostmem max_io_size max_ioqpairs max_outputs max_ports max_sectors max_sge
  max_unmap_size maxframes mcl mdts mem-reserve memaddr memdev migrate-emulated-scsi-request migrate-extra
  migrate-timadj migrate_tso_props min_io_size mitigation mixer mmio model modern-pio-notify mq mqes mrg_rxbuf ms
  mset msi msix msix-exclusive-bar msix_qsize msos-desc msrc mssrl multifunction name netdev nguid node
  notify_on_empty nqn nr nsid num-queues num_queues numa_node ocp old_msi_addr opt_io_size outputs p2 p3 packed
  page-per-vq page-poison param_change pasid-bits pci-id period physical_block_size pi pif pil pmrdev port
  port-power port_index port_wwn ports power_controller_present prealloc pref32-reserve pref64-reserve primary-bus
  product prog_if pt qemu-4-0-config-size qemu-extended-regs queue-size queue_reset quirk_mode_page_apple_vendor
  quirk_mode_page_set_block_size quirk_mode_page_truncated quirk_mode_page_vendor_specific_apple
  quirk_mode_sense_rom_use_dbd ram_size ram_size_mb readback refresh_rate removable report-discard-granularity
  request-merging requested-size rerror revision rng rombar romsize rotation_rate rsc_interval rss rx_queue_size
  sas_address scalable-mode scsi scsi-id scsi_version secs seg-max-adjust seg_max_adjust serial share-rw shared shpc
  size slot slots smart_critical_warning snoop-control speed sriov-pf sriov_max_vfs sriov_max_vi_per_vf
  sriov_max_vq_per_vf sriov_vi_flexible sriov_vq_flexible stale-tm status streams subsys subsys_ven
  superspeed-ports-first surfaces svm tx tx_queue_size unit unplugged-inaccessible usb_version use-disabled-flag
  use-intel-id use-legacy-x86-rom use-started use-timer use_jbod use_msg uuid vectors vendor ver version vgamem
  vgamem_mb virtio-pci-bus-master-bug-migration virtqueue_size vram64_size_mb vram_size vram_size_mb vsl wakeup
  werror wheel-axis win2k-install-hack write-cache write-zeroes wwn x-ats-page-aligned x-buggy-eim
  x-disable-legacy-check x-disable-pcie x-do-not-expose-native-hotplug-cap x-early-migration
  x-enable-wce-if-config-wce x-flts x-ignore-backend-features x-max-bounce-buffer-size x-migrate x-migrate-msix
  x-mtu-bypass-backend x-native-hotplug x-old-msi-offsets x-old-pci-configuration x-pasid-mode
  x-pci-express-writeable-slt-bug x-pcie-ari-nextfn-1 x-pcie-deverr-init x-pcie-err-unc-mask x-pcie-ext-tag
  x-pcie-extcap-init x-pcie-flr-init x-pcie-lnkctl-init x-pcie-lnksta-dllla x-pcie-pm-init x-pcie-pm-no-soft-reset
  x-scalable-mode x-scanout-vmstate-version x-speed x-txburst x-txtimer x-width xmax xres xtsup ymax yres zoned
  zoned.auto_transition zoned.cross_read zoned.descr_ext_size zoned.max_active zoned.max_open zoned.numzrwa
  zoned.zasl zoned.zone_capacity zoned.zone_size zoned.zrwafg zoned.zrwas`.split(/\s+/),
);
