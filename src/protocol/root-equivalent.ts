/**
 * Groups that are powers: a member can become root by ordinary means (sudo rules, raw disks, containers, other people's
 * memory). They may be granted like any other. What they take away is the promise at the end: who was root on a server
 * could have changed anything there, so an end is then `observed`, never proven. The host program has the same list.
 */
export const ROOT_EQUIVALENT_GROUPS: ReadonlySet<string> = new Set([
  'root',
  'sudo',
  'wheel',
  'admin',
  'adm',
  'staff',
  'disk',
  'shadow',
  'kmem',
  'docker',
  'podman',
  'lxd',
  'lxc',
  'incus',
  'incus-admin',
  'libvirt',
  'kvm',
])

export const rootEquivalent = (groups: readonly string[]): string[] =>
  groups.filter((group) => ROOT_EQUIVALENT_GROUPS.has(group))
