{
  'targets': [
    {
      'target_name': 'homeproxy',
      'sources': [
        'src/addon.cc',
        'src/batch.cc',
        'src/borrowed-task.cc',
        'src/btf.cc',
        'src/descriptor.cc',
        'src/failure.cc',
        'src/map.cc',
        'src/mounts.cc',
        'src/netlink.cc',
        'src/network.cc',
        'src/object.cc',
        'src/program.cc',
        'src/ring.cc',
        'src/survey.cc',
        'src/system.cc',
        'src/tap.cc',
        'src/tracker.cc',
        'src/watch.cc',
      ],
      'include_dirs': ['<!@(node -p "require(\'node-addon-api\').include_dir")'],
      'defines': [
        'NAPI_VERSION=9',
        'NODE_ADDON_API_CPP_EXCEPTIONS',
        'NODE_ADDON_API_DISABLE_DEPRECATED',
        # A worker that is being terminated can throw no more; without this the whole process would abort.
        'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
      ],
      'cflags!': ['-fno-exceptions'],
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20'],
      'cflags_cc': [
        '-std=c++20',
        '-fexceptions',
        '-fvisibility=hidden',
        '-Wall',
        '-Wextra',
        '-Wno-missing-field-initializers',
        '<!@(pkg-config --cflags "libbpf >= 1.1")',
      ],
      'libraries': ['<!@(pkg-config --libs "libbpf >= 1.1")'],
    },
    {
      # Loaded into CRIU, beside CRIU's own libc: it needs nothing but that.
      'target_name': 'criu_hooks',
      'type': 'loadable_module',
      'sources': ['src/criu-hooks.c'],
      'cflags': ['-Wall', '-Wextra', '-fvisibility=hidden'],
      'ldflags': ['-Wl,--as-needed'],
    },
    {
      # Loaded into CRIU, which may be one with a C library of its own: nothing but that may be needed.
      'target_name': 'criu-memory',
      'type': 'loadable_module',
      'sources': ['src/criu-memory.c', 'src/criu-dump.c', 'src/criu-restore.c'],
      'cflags': ['-fvisibility=hidden', '-Wall', '-Wextra'],
      'ldflags': ['-Wl,--as-needed'],
    },
  ],
}
