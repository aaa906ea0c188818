// The kinds of servers that tests run on: what each is made of and how it is run. image.ts makes them.

/** What a kind needs from the engine beyond an unprivileged container with an init. */
export type RunOptions = {
  /** False where the command is an init itself. */
  init?: false
  /** Mount options by path. */
  tmpfs?: Readonly<Record<string, string>>
  /** It manages cgroups: those of the engine's machine where they are of the first version, else its own. */
  cgroups?: true
  /** Paths of the engine's machine, under the same name inside, read-only. */
  binds?: readonly string[]
  capabilities?: readonly string[]
  securityOptions?: readonly string[]
  /** How many processes it may have; default: any number. */
  processes?: number
  /** Where sshd logs, if not to the container's output: a command inside. */
  log?: readonly string[]
}

/**
 * A folder of docker/hosts/ with its Dockerfile, on a public base image or on another kind. An optional base is one
 * that we can't make ourselves: where it can't be pulled, there are no hosts of that kind.
 */
export type Recipe = { folder: string; run?: RunOptions } & ({ base: string; optional?: true } | { on: HostKind })

export type HostKind = keyof typeof kinds

export const DEFAULT_BASE = 'debian:bookworm-slim'

/** As systemd itself asks of a container's host; not privileged. */
const BOOTED: RunOptions = {
  init: false,
  tmpfs: { '/run': '', '/run/lock': '', '/tmp': 'exec' },
  cgroups: true,
  capabilities: ['SYS_ADMIN'],
  securityOptions: ['seccomp=unconfined', 'apparmor=unconfined'],
  log: ['journalctl', '--no-pager', '--output=cat', '--unit=ssh'],
}

const kinds = {
  debian: { folder: 'debian', base: DEFAULT_BASE },
  debian11: { folder: 'debian', base: 'debian:bullseye-slim' },
  debian13: { folder: 'debian', base: 'debian:trixie-slim' },
  systemd: { folder: 'systemd', on: 'debian', run: BOOTED },
  'sudo-rs': { folder: 'sudo-rs', on: 'debian13' },
  doas: { folder: 'doas', on: 'debian' },
  mksh: { folder: 'mksh', on: 'debian' },
  busybox: { folder: 'busybox', base: DEFAULT_BASE },
  ldap: { folder: 'ldap', on: 'debian' },
  ubuntu: { folder: 'debian', base: 'ubuntu:24.04', optional: true },
  rocky8: { folder: 'debian', base: 'rockylinux/rockylinux:8', optional: true },
  rocky9: { folder: 'debian', base: 'rockylinux/rockylinux:9', optional: true },
  opensuse: { folder: 'debian', base: 'opensuse/leap:15.6', optional: true },
  arch: { folder: 'debian', base: 'archlinux:base', optional: true },
} as const satisfies Record<string, { folder: string; run?: RunOptions; base?: string; on?: string; optional?: true }>

export const recipes: Readonly<Record<HostKind, Recipe>> = kinds

export const hostKinds = Object.keys(kinds) as HostKind[]
