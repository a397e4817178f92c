{
  # vmckpt_native: the addon (native/binding over native/core). vmckpt-receiver and vmckpt-keeper: processes of their
  # own, free of N-API and linked statically so that they stay small for as long as a save or a restore lasts.
  # vmckpt-no-holes becomes another program.
  'variables': { 'core': 'native/core' },
  'target_defaults': {
    'include_dirs': ['native'],
    'cflags': ['-Wall', '-Wextra', '-Werror', '-O2'],
    'cflags_cc!': ['-std=gnu++17', '-fno-exceptions'],
    'cflags_cc': ['-std=c++20'],
  },
  'targets': [
    {
      'target_name': 'vmckpt_native',
      'sources': [
        '<(core)/checkpoint_image.cc',
        '<(core)/checksum.cc',
        '<(core)/checksum_avx2.cc',
        '<(core)/fault_background.cc',
        '<(core)/fault_bench.cc',
        '<(core)/fault_huge.cc',
        '<(core)/fault_removal.cc',
        '<(core)/fault_server.cc',
        '<(core)/file_range.cc',
        '<(core)/hot_pack.cc',
        '<(core)/install_order.cc',
        '<(core)/mapped_file.cc',
        '<(core)/memory_fill.cc',
        '<(core)/page_table.cc',
        '<(core)/pidfd.cc',
        '<(core)/pipe.cc',
        '<(core)/process_memory.cc',
        '<(core)/return_path.cc',
        '<(core)/unix_socket.cc',
        '<(core)/userfaultfd.cc',
        '<(core)/userfaultfd_rescue.cc',
        'native/binding/addon.cc',
        'native/binding/errors.cc',
        'native/binding/fault_bench.cc',
        'native/binding/fault_path.cc',
        'native/binding/memory_fill.cc',
        'native/binding/receive_fds.cc',
      ],
      'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
      'defines': ['NAPI_VERSION=8', 'NAPI_CPP_EXCEPTIONS'],
      # Whoever gets this file needs nothing but its C library, and none of this is mistaken for what Node itself has of it.
      'libraries': ['-l:libzstd.a'],
      'ldflags': ['-Wl,--exclude-libs,libzstd.a'],
    },
    {
      'target_name': 'vmckpt-receiver',
      'type': 'executable',
      'sources': [
        '<(core)/pipe.cc',
        '<(core)/receiver.cc',
        '<(core)/receiver_main.cc',
      ],
      'ldflags': ['-static'],
    },
    {
      'target_name': 'vmckpt-keeper',
      'type': 'executable',
      'sources': [
        '<(core)/keeper.cc',
        '<(core)/keeper_children.cc',
        '<(core)/keeper_main.cc',
        '<(core)/unix_socket.cc',
      ],
      'ldflags': ['-static'],
    },
    {
      'target_name': 'vmckpt-no-holes',
      'type': 'executable',
      'sources': ['<(core)/no_holes_main.cc'],
      'ldflags': ['-static'],
    },
  ],
}
