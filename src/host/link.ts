/**
 * What the host program needs of a connection. `src/ssh/` provides it; tests may drive the program through anything
 * else that runs a command with text on its stdin.
 */
export interface ExecOutcome {
  readonly stdout: string
  readonly stderr: string
  /** Null where the channel closed without one: the outcome is unknown. */
  readonly exitCode: number | null
  readonly exitSignal: string | null
}

export interface ExecOptions {
  /** For the whole run, in milliseconds. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

export interface HostLink {
  /** As whom we logged in. */
  readonly user: string
  readonly host: string
  readonly port: number
  /** The server's identification without `SSH-2.0-`, e.g. `OpenSSH_9.2p1 Debian-2`. */
  readonly serverSoftware: string
  /** The host key that the server proved to hold, `type base64`. */
  readonly hostKey: string
  exec(command: string, stdin: string, options: ExecOptions): Promise<ExecOutcome>
}
