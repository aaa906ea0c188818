/** What the error tables are made of. */

/** What a hint may name. All of it is known before the failure; none of it is secret. */
export interface ErrorFacts {
  readonly user?: string
  readonly host?: string
  readonly port?: number
  /** Of the keys of ours that it is about. */
  readonly fingerprints?: readonly string[]
  /** `type base64` of a key of ours: the one text of this kind that may stand in a command. */
  readonly publicLine?: string
  readonly login?: string
  readonly detail?: string
  /** The path of the connector's known_hosts, where that decides which host keys are known. */
  readonly knownHosts?: string
  /** Of the host key that was shown, as in `/etc/ssh/ssh_host_KIND_key.pub`. */
  readonly hostKeyKind?: 'ed25519' | 'ecdsa' | 'rsa'
}

/** Whose hands it needs. The server's admin has root there; the connector's runs the connector and keeps its secrets. */
export type FixedBy = 'server admin' | 'connector admin' | 'control plane admin' | 'requester' | 'nobody'

export interface ErrorEntry {
  /** Whether trying again by itself can help. */
  readonly retryable: boolean
  readonly fixedBy: FixedBy
  readonly seen: string
  /**
   * What to do next, with the commands. Text that a server chose never stands in a command: somebody will paste it into
   * a root shell.
   */
  readonly hint: (facts: ErrorFacts) => string
}

export const user = (facts: ErrorFacts): string => facts.user ?? 'apono'
export const where = (facts: ErrorFacts): string => `${facts.host ?? 'the server'}:${facts.port ?? 22}`

/** The line that makes the connection user root, as it stands in the documentation. */
export const sudoersLine = (facts: ErrorFacts): string => `${user(facts)} ALL=(ALL) NOPASSWD:ALL`

/** In sshd_config, for the logins that we make; a `Match` block at the end or in a file of sshd_config.d. */
export const forOurLogins = (...settings: readonly string[]): string =>
  [
    'In sshd_config, then sshd -t && systemctl reload ssh:',
    'Match Group apono-managed',
    ...settings.map((setting) => `\t${setting}`),
  ].join('\n')
