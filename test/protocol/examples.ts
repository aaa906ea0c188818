/** The examples of the protocol's document, as they would come over the wire. */
export const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl'

export const ensureJob = () => ({
  jobId: 'job_1',
  epoch: 41,
  attempt: 1,
  kind: 'ensure',
  leaseTtlMs: 60_000,
  integration: {
    id: 'int_1',
    name: 'Production servers',
    version: 3,
    secretStore: { type: 'aws', region: 'eu-west-1', secretId: 'apono/ssh' },
    userGroups: ['dbadmins', 'sudo'],
    policy: {
      existingUser: 'refuse',
      onRevoke: 'lock',
      hostKeys: 'trust_on_first_use',
      trust: 'root_file',
      rootProcesses: 'session',
      shell: '/bin/bash',
    },
  },
  server: { id: 'srv_1', name: 'db-1', host: '10.0.8.15', port: 22, user: 'apono', tags: {}, hostKeys: [], jumps: [] },
  grant: {
    id: 'grt_8f2c',
    generation: 2,
    state: 'present',
    login: 'dana',
    person: 'dana@example.com',
    groups: ['dbadmins'],
    notBefore: '2026-11-22T15:00:00.000Z',
    notAfter: '2026-11-22T16:00:00.000Z',
    publicKey: KEY,
    issue: true,
    hostId: 'h_91',
  },
})
