import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { rewriteForRestore } from '../../../src/qemu/restore-command-line.js';
import { untrustedOptions } from '../../../src/qemu/trust.js';

const HARMLESS: readonly (readonly string[])[] = [
  ['-machine', 'q35,accel=tcg', '-cpu', 'max', '-smp', '2', '-m', '1G', '-nodefaults', '-display', 'none'],
  ['-kernel', '/boot/vmlinuz', '-initrd', 'i', '-append', 'console=ttyS0 exec:sh'],
  ['-drive', 'file=disk.img,if=none,id=d,format=raw,readonly=on', '-device', 'virtio-blk-pci,drive=d'],
  ['-drive', 'file=disk.img,snapshot=on'],
  ['-snapshot', '-drive', 'file=disk.img', '-hda', 'x.img'],
  ['-cdrom', 'x.iso', '-drive', 'file=x.iso,media=cdrom'],
  ['-blockdev', '{"driver":"raw","node-name":"n","read-only":true,"file":{"driver":"file","filename":"/x"}}'],
  ['-netdev', 'user,id=n,hostfwd=tcp::2222-:22', '-device', 'virtio-net-pci,netdev=n,mac=52:54:00:1:2:3'],
  ['-netdev', 'tap,id=n,ifname=t0,script=no,downscript=no'],
  ['-qmp', 'unix:/tmp/q.sock,server=on,wait=off', '-serial', 'mon:stdio', '-monitor', 'none'],
  ['-chardev', 'socket,id=c,path=/run/c.sock,server=on', '-serial', 'chardev:c'],
  ['-object', 'rng-random,id=r,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=r'],
  ['-object', 'memory-backend-memfd,id=m,size=1G', '-vnc', '127.0.0.1:1', '-usbdevice', 'tablet'],
  [
    '-serial',
    'unix:/tmp/s,server,nowait',
    '-monitor',
    'mon:unix:/run/m,server=on,wait=off',
    '-serial',
    'vc:80Cx24C',
  ],
  ['-chardev', 'pty,id=p', '-chardev', 'ringbuf,id=r,size=1024', '-parallel', 'none', '-debugcon', 'stdio'],
  [
    '-nic',
    'user,model=virtio-net-pci,mac=52:54:00:1:2:3,hostfwd=tcp:[::1]:80-:80,hostfwd=udp::53-10.0.2.15:53',
  ],
  ['-netdev', '{"type":"user","id":"n","hostfwd":[{"str":"tcp::2222-:22"}],"ipv6":false}'],
  ['-net', 'nic,model=e1000', '-net', 'user,net=10.0.2.0/24,dns=10.0.2.3,restrict=on', '-nic', 'none'],
  [
    '-device',
    '{"driver":"virtio-net-pci","netdev":"n","id":"a","bus":"pci.1","addr":"0x1.0x2","mac":"52:54:0:0:0:1"}',
  ],
  ['-device', 'virtio-net-pci,netdev=n,romfile=', '-device', 'e1000,netdev=n,romfile=efi-e1000.rom'],
  [
    '-device',
    'max-x86_64-cpu,socket-id=1,core-id=0,thread-id=0',
    '-device',
    'pcie-root-port,port=16,chassis=1,id=p',
  ],
  ['-global', 'ICH9-LPC.disable_s3=1', '-global', 'driver=PIIX4_PM,property=disable_s4,value=1'],
  [
    '-global',
    'kvm-pit.lost_tick_policy=delay',
    '-rtc',
    'base=utc,driftfix=slew',
    '-boot',
    'order=c,menu=off',
  ],
  ['-machine', 'pc-q35-7.2,usb=off,vmport=off,smm=on,kernel_irqchip=on,dump-guest-core=off,hpet=off,acpi=on'],
  [
    '-machine',
    'q35,pflash0=code,memory-backend=pc.ram',
    '-object',
    'memory-backend-ram,id=pc.ram,size=64M,share=on',
  ],
  ['-object', '{"qom-type":"memory-backend-memfd","id":"m","size":4096,"host-nodes":[0],"policy":"bind"}'],
  [
    '-cpu',
    'Skylake-Client-IBRS,ss=on,+vmx,-hle,hv-vendor-id=a b,l3-cache',
    '-accel',
    'kvm,dirty-ring-size=1024',
  ],
  ['-name', 'guest=web,debug-threads=on', '-smbios', 'type=1,product=A/B', '-k', 'de', '-vga', 'std'],
  [
    '-numa',
    'node,nodeid=0,cpus=0-1,cpus=4,memdev=m',
    '-smp',
    '4,sockets=2,cores=2',
    '-m',
    'size=1G,slots=2,maxmem=4G',
  ],
  [
    '-fw_cfg',
    'name=opt/x,string=a=b c',
    '-boot',
    'strict=on',
    '-L',
    '/usr/share/qemu',
    '-overcommit',
    'mem-lock=off',
  ],
  [
    '-blockdev',
    'driver=qcow2,node-name=n,read-only=on,file.driver=file,file.filename=d.qcow2,cache.direct=on',
  ],
  ['-drive', 'if=none,id=empty', '-drive', 'file=null-co://,if=none', '-drive', 'file=a,,b.img,readonly=on'],
  [
    '--name',
    'x',
    '-display',
    'vnc=127.0.0.1:1,password=on',
    '-display',
    'gtk,gl=on',
    '-vnc',
    'unix:/run/v,share=ignore',
  ],
];

const HARMFUL: readonly (readonly [string, ...string[]])[] = [
  ['-D', '/etc/cron.d/x'],
  ['-pidfile', '/etc/passwd'],
  ['-plugin', '/tmp/evil.so'],
  ['-trace', 'file=/etc/x'],
  ['-readconfig', 'x'],
  ['-dump-vmstate', '/etc/x'],
  ['-run-with', 'chroot=/'],
  ['-s'],
  ['-gdb', 'tcp::1234'],
  ['-brand-new', 'x'],
  ['-constructor', 'x'],
  ['-drive', 'file=/dev/sda,format=raw'],
  ['-drive', 'file=fat:rw:/etc'],
  ['-drive', 'file=nbd:host:1,readonly=on'],
  ['-drive', 'file=json:{},readonly=on'],
  ['-drive', 'file=x,format=vvfat,readonly=on'],
  ['-drive', 'file=x,readonly=on,backing.file.filename=/etc/shadow'],
  ['-blockdev', 'driver=file,node-name=n,filename=/dev/sda'],
  ['-blockdev', 'driver=qcow2,node-name=n,read-only=on,file=f,data-file.filename=/x'],
  ['-blockdev', 'driver=nbd,node-name=n,server.type=unix'],
  ['disk.img'],
  ['-pflash', 'vars.fd'],
  ['-mem-path', '/etc/x'],
  ['-object', 'memory-backend-file,id=m,mem-path=/x,size=1M,share=on'],
  ['-object', 'filter-dump,id=f,netdev=n,file=/x'],
  ['-object', 'input-linux,id=i,evdev=/dev/input/event0'],
  ['-device', 'vfio-pci,host=01:00.0'],
  ['-device', '{"driver":"usb-host","hostbus":1}'],
  ['-device', 'loader,file=/etc/shadow'],
  ['-device', 'virtio-input-host-pci,evdev=/dev/input/event0'],
  ['-global', 'vfio-pci.sysfsdev=/x'],
  ['-netdev', 'tap,id=n,script=/tmp/x,downscript=no'],
  ['-netdev', 'tap,id=n'],
  ['-netdev', 'bridge,id=n'],
  ['-netdev', 'user,id=n,guestfwd=tcp:10.0.2.1:1-cmd:sh'],
  ['-netdev', 'user,id=n,smb=/'],
  ['-nic', 'user,tftp=/'],
  ['-netdev', 'socket,id=n,connect=10.0.0.1:1'],
  ['-netdev', 'vhost-user,id=n,chardev=c'],
  ['-chardev', 'file,id=c,path=/etc/x'],
  ['-chardev', 'pipe,id=c,path=/x'],
  ['-chardev', 'null,id=c,logfile=/etc/x'],
  ['-chardev', 'socket,id=c,path=/run/docker.sock'],
  ['-chardev', 'socket,id=c,path=/etc/x,server=on'],
  ['-chardev', 'socket,id=c,path=/tmp/../etc/x,server=on'],
  ['-serial', 'file:/etc/x'],
  ['-serial', '/dev/ttyS0'],
  ['-serial', 'mon:vc'],
  ['-monitor', 'tcp::4444,server'],
  ['-monitor', 'vc'],
  ['-qmp', 'tcp:0:4444,server'],
  ['-vnc', ':0'],
  ['-display', 'vnc=:0'],
  ['-spice', 'port=1'],
  ['-fsdev', 'local,id=f,path=/,security_model=none'],
  ['-virtfs', 'local,path=/,mount_tag=t'],
  ['-tpmdev', 'passthrough,id=t'],
  ['-icount', 'shift=1,rr=record,rrfile=/etc/x'],
  ['-machine', 'q35,dumpdtb=/etc/x'],
  ['-audiodev', 'wav,id=a,path=/etc/x'],
  // Words that QEMU reads as off, and what is there twice.
  ['-netdev', 'tap,id=t,ifname=b,script=no,downscript=no,noscript'],
  ['-netdev', 'tap,id=t,script=no,downscript=no,script=off'],
  ['-netdev', 'tap,id=t,script=no,downscript=no,helper=/x'],
  ['-netdev', 'user,id=t,type=tap'],
  ['-drive', 'file=X,format=raw,if=none,id=d,snapshot=on,nosnapshot'],
  ['-drive', 'file=X,format=raw,read-only=on,noread-only'],
  ['-drive', 'file=X,readonly=on,readonly=off'],
  ['-drive', 'file=X,readonly=on,file=Y'],
  ['-drive', 'readonly=on,file=a,,b,,,readonly=off'],
  ['-drive', 'file=X,noreadonly'],
  ['-drive', 'file=X,readonly'],
  ['-drive', '{"file":"x","readonly":"on"}'],
  ['-drive', 'file=X,readonly=on,'],
  ['-drive', 'file=X,readonly=on,help'],
  ['-drive', 'file=X,readonly=on,file.driver=nbd'],
  ['-drive', 'file.filename=X,file.driver=host_device,readonly=on'],
  ['-drive', 'file.file.filename=X,readonly=on'],
  ['-drive', 'driver=nbd,server.type=unix,server.path=/x,read-only=on'],
  ['-drive', 'file=X,media=cdrom,media=disk'],
  ['-drive', 'file=X,media=disk'],
  ['-snapshot', '-drive', 'file=F,format=raw,snapshot=off'],
  ['-snapshot', '-drive', 'file=F,format=raw,nosnapshot'],
  ['-blockdev', 'driver=file,node-name=n,filename=/x,read-only=on,auto-read-only=on,read-only=off'],
  [
    '-blockdev',
    '{"driver":"file","node-name":"n","filename":"/x","read-only":true,"data-file":{"filename":"/y"}}',
  ],
  ['-blockdev', '{"driver":"raw","node-name":"n","read-only":true,"file":{"driver":"nbd","path":"/y"}}'],
  [
    '-blockdev',
    '{"driver":"raw","read-only":true,"file.filename":"/x","file":{"driver":"file","filename":"/y"}}',
  ],
  ['-serial', 'unix:/tmp/ok,server=on,path=/home/v/victim'],
  ['-serial', 'unix:/tmp/ok,server=on,backend=file'],
  ['-serial', 'unix:/tmp/ok,server=on,noserver'],
  ['-serial', 'unix:/tmp/ok,server=on,logfile=/etc/x'],
  ['-serial', 'unix:path=/tmp/ok,server=on'],
  ['-serial', 'unix:/tmp/ok,server=on,abstract=on'],
  ['-serial', 'vc,logfile=/etc/x'],
  ['-serial', 'pty:/etc/link'],
  ['-serial', 'stdio,logfile=/etc/x'],
  ['-parallel', 'unix:/tmp/ok,server=on,path=/tmp/a'],
  ['-monitor', 'unix:/tmp/ok,server=on,,path=/x'],
  ['-chardev', 'socket,id=c,server=on,path=/tmp/ok,path=/etc/x'],
  ['-chardev', 'socket,id=c,server=on,path=/tmp/ok,fd=3'],
  ['-chardev', 'socket,id=c,server=on,path=/tmp/ok,tls-creds=t'],
  ['-chardev', 'null,id=c,backend=file,path=/etc/x'],
  ['-chardev', 'pty,id=p,path=LINK'],
  ['-chardev', '{"backend":"null"}'],
  ['-mon', 'chardev=c,mode=control,x=1'],
  // Names that are none.
  ...['-cdrom', '-kernel', '-initrd', '-dtb', '-bios'].flatMap((option): [string, string][] => [
    [option, 'nbd://host/x'],
    [option, 'ssh:x'],
    [option, 'json:{"driver":"nbd"}'],
    [option, 'fat:rw:/etc'],
    [option, '/dev/watchdog'],
    [option, '/tmp/../dev/null'],
    [option, '/proc/self/mem'],
    [option, '/sys/kernel/x'],
    [option, '/etc'],
  ]),
  ['-snapshot', '-hda', 'nbd://host/x'],
  ['-snapshot', '-fda', 'http://host/x'],
  ['-snapshot', '-hdb', '/dev/sda'],
  ['-snapshot', '-mtdblock', 'ssh:x'],
  ['-snapshot', '-sd', 'json:{}'],
  ['-snapshot', '-pflash', 'vars.fd'],
  ['-drive', 'file=/dev/sda,readonly=on'],
  ['-drive', 'file=/dev/fdset/1,readonly=on'],
  ['-drive', 'file=file:/dev/sda,readonly=on'],
  ['-bios', '../../../dev/watchdog'],
  ['-L', '/tmp/firmware'],
  ['-initrd', '/boot/a,/dev/watchdog'],
  ['-boot', 'splash=/dev/watchdog'],
  ['-option-rom', '/dev/watchdog'],
  ['-fw_cfg', 'name=opt/x,file=/dev/watchdog'],
  ['-fw_cfg', 'opt/x,file=/ok,file=/proc/kmsg'],
  ['-smbios', 'file=/dev/watchdog'],
  ['-smbios', 'type=11,path=/dev/watchdog'],
  ['-acpitable', 'sig=X,data=/etc/hostname:/dev/watchdog'],
  ['-device', 'virtio-net-pci,romfile=/dev/watchdog'],
  ['-k', '../../dev/watchdog'],
  ['-object', 'rng-random,id=r,filename=/dev/watchdog'],
  ['-object', 'rng-random,id=r,filename=/dev/urandom,filename=/dev/x'],
  ['-object', 'secret,id=s,file=/etc/shadow'],
  ['-object', 'memory-backend-ram,id=m,size=1,qom-type=memory-backend-file'],
  ['-object', 'memory-backend-memfd,id=m,size=1,mem-path=/x'],
  ['-object', 'iothread,id=i,new=1'],
  ['-object', 'tls-creds-x509,id=t,dir=/x'],
  ['-object', 'input-barrier,id=b,server=h'],
  // The host, by keys of what is harmless.
  ['-device', 'usb-tablet,pcap=/etc/x'],
  ['-device', 'nvme,spdm_port=2323'],
  ['-device', 'virtio-net-pci,ebpf-rss-fds=3'],
  ['-device', 'usb-tablet,driver=usb-host'],
  ['-device', 'virtio-rng-pci,nonexistent=1'],
  ['-device', 'virtio-rng-pci,romfile'],
  ['-device', 'max-x86_64-cpu,driver=vfio-pci'],
  ['-global', 'usb-tablet.pcap=/etc/x'],
  ['-global', 'driver=usb-tablet,property=pcap,value=x'],
  ['-global', 'virtio-net-pci.romfile=/dev/watchdog'],
  ['-global', 'driver=virtio-net-pci,property=romfile,value=x'],
  ['-global', 'kvm-accel.device=/x'],
  ['-accel', 'kvm,device=/etc/x'],
  ['-accel', 'kvm,accel=xen'],
  ['-machine', 'q35,accel=kvm:xen'],
  ['-machine', 'q35,memory-encryption=sev0'],
  ['-machine', 'q35,kernel=/dev/watchdog'],
  ['-cpu', 'host,x=/etc/x'],
  ['-name', 'a,process=sshd'],
  ['-display', 'vnc=127.0.0.1:71,websocket=0.0.0.0:5771'],
  ['-display', 'vnc=127.0.0.1:71,tls-creds=t'],
  ['-display', 'egl-headless,rendernode=/dev/x'],
  ['-display', 'dbus'],
  ['-display', '{"type":"egl-headless"}'],
  ['-vnc', '127.0.0.1:1,vnc=0.0.0.0:2'],
  ['-vnc', '127.0.0.1:1,websocket=on'],
  ['-vnc', '127.0.0.1:1,reverse=on'],
  ['-vnc', 'unix:/etc/x'],
  ['-vnc', '127.0.0.1.evil:1'],
  ['-spice', 'addr=127.0.0.1,port=1'],
  ['-netdev', 'user,id=n,bootfile=/x'],
  ['-netdev', 'user,id=n,smbserver=10.0.2.4'],
  ['-netdev', 'user,id=n,hostfwd=unix:/x-:22'],
  ['-netdev', 'user,id=n,hostfwd=tcp::1-:2,guestfwd=tcp:10.0.2.1:1-cmd:sh'],
  ['-netdev', '{"type":"user","id":"n","guestfwd":[{"str":"tcp:10.0.2.1:1-cmd:sh"}]}'],
  ['-net', 'dump,file=/x'],
  ['-set', 'drive.d.snapshot=off'],
  ['-writeconfig', '/etc/x'],
  ['-incoming', 'exec:sh'],
  ['-incoming', '{"channel-type":"main"}'],
  ['-pidfile', '/etc/x'],
  ['-loadvm', 'x'],
  ['-daemonize'],
  ['-runas', 'root'],
  ['-chroot', '/'],
  ['-run-with', 'user=root'],
  ['-add-fd', 'fd=3,set=1'],
  ['-d', 'exec'],
  ['-semihosting-config', 'enable=on'],
  ['-prom-env', 'x=y'],
  ['-iscsi', 'initiator-name=x'],
  ['-readconfig', '/etc/x'],
  ['---name', 'x'],
  ['-append', 'a\0-netdev\0tap'],
  ['-append', 'a\nb'],
];

const SERVED = { monitorSocket: '/run/vmckpt/a/q', consoleSocket: '/run/vmckpt/a/c', paused: true };

describe('untrustedOptions', () => {
  it.each(HARMLESS.map((argv) => [argv]))('lets pass %j', (argv) => {
    expect(untrustedOptions(argv)).toEqual([]);
  });

  it.each(HARMFUL.map((argv) => [argv]))('stops %j', (argv) => {
    const [found] = untrustedOptions(argv);
    expect(found?.reason).toMatch(/\w/);
    expect(found?.option).toContain(argv.at(-1));
  });

  it('trusts what the rewriting for a restore adds, which leaves out what belongs to one run', () => {
    const runOnly = ['-incoming', 'exec:sh', '-daemonize', '-loadvm', 'x', '-preconfig'];
    const { args } = rewriteForRestore(['-nographic', '-machine', 'q35', ...runOnly], SERVED);
    expect(untrustedOptions(args)).toEqual([]);
  });

  it('takes no pipe, no link to a device, and no socket behind a link', () => {
    const cwd = mkdtempSync('/tmp/vmckpt-test-');
    onTestFinished(() => rmSync(cwd, { recursive: true }));
    execFileSync('mkfifo', [`${cwd}/pipe`]);
    symlinkSync('/dev/null', `${cwd}/null`);
    symlinkSync('/etc', `${cwd}/etc`);
    symlinkSync('plain', `${cwd}/link`);
    writeFileSync(`${cwd}/plain`, '');
    const judge = (...argv: string[]) => untrustedOptions(argv, { cwd }).length;
    expect(['plain', 'link', 'none'].map((name) => judge('-kernel', name))).toEqual([0, 0, 0]);
    expect(['pipe', 'null', 'etc', 'etc/x/../..'].map((name) => judge('-cdrom', name))).toEqual([1, 1, 1, 1]);
    expect(judge('-serial', `unix:${cwd}/s,server=on`)).toBe(0);
    expect(judge('-serial', 'unix:s,server=on')).toBe(0);
    expect(judge('-serial', `unix:${cwd}/etc/s,server=on`)).toBe(1);
    expect(judge('-serial', 'unix:etc/s,server=on')).toBe(1);
    expect(judge('-serial', 'unix:../../etc/s,server=on')).toBe(1);
    expect(judge('-serial', `unix:${cwd}/etc/../s,server=on`)).toBe(1);
  });

  it('takes no variable that says nothing for a folder of sockets', () => {
    vi.stubEnv('XDG_RUNTIME_DIR', '');
    onTestFinished(() => void vi.unstubAllEnvs());
    expect(untrustedOptions(['-serial', 'unix:/etc/x,server=on'])).toHaveLength(1);
  });
});
