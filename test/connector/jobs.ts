// Jobs as a control plane sends them: JSON, not yet parsed.

type Json = Record<string, unknown>
let jobs = 0

export type JobOptions = {
  jobId?: string
  epoch?: number
  kind?: string
  host?: string
  port?: number
  user?: string
  hostKeys?: readonly string[]
  jumps?: readonly Json[]
  secretPath?: string
  policy?: Json
  userGroups?: string[]
  grant?: Json
  leaseTtlMs?: number
}

export const ED25519 = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxjPlNZ+WpRpxTjtk6Crq5HyEmnw0Ln3MjzjpuqaaM1'

export const HOUR = 3_600_000

export const grant = (overrides: Json = {}): Json => ({
  id: 'grt_1',
  generation: 1,
  state: 'present',
  login: 'dana',
  person: 'dana@example.com',
  groups: ['dbadmins'],
  notBefore: new Date(Date.now() - 1000).toISOString(),
  notAfter: new Date(Date.now() + HOUR).toISOString(),
  publicKey: ED25519,
  issue: true,
  hostId: null,
  ...overrides,
})

export const job = (options: JobOptions = {}): Json => {
  const number = ++jobs
  return {
    jobId: options.jobId ?? `job_${number}`,
    epoch: options.epoch ?? number,
    attempt: 1,
    kind: options.kind ?? 'ensure',
    leaseTtlMs: options.leaseTtlMs ?? 60_000,
    integration: {
      id: 'int_1',
      name: 'Test servers',
      version: 1,
      secretStore: { type: 'file', path: options.secretPath ?? '/nowhere/ssh.json' },
      userGroups: options.userGroups ?? ['dbadmins', 'developers'],
      policy: options.policy ?? {},
    },
    server: {
      id: 'srv_1',
      name: 'one',
      host: options.host ?? '127.0.0.1',
      port: options.port ?? 22,
      user: options.user ?? 'apono',
      hostKeys: options.hostKeys ?? [],
      ...(options.jumps ? { jumps: options.jumps } : {}),
    },
    ...(options.kind === 'inspect' ? {} : { grant: grant(options.grant) }),
  }
}
