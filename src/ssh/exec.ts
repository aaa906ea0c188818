import type { Client, ClientChannel } from 'ssh2'
import { type ErrorCode, type ErrorFacts, JobError } from '../host/errors.ts'
import type { ExecOptions, ExecOutcome } from '../host/link.ts'
import type { Clock } from '../observability/clock.ts'
import { withDeadline } from './deadline.ts'
import { type Loss, orLost } from './loss.ts'

/** More than any job can print. It bounds memory against a server that never stops talking. */
export const MAX_OUTPUT_BYTES = 1024 * 1024

export interface ExecContext {
  readonly client: Client
  readonly clock: Clock
  readonly channelTimeoutMs: number
  /** Without a byte from the command. */
  readonly silenceMs: number
  readonly facts: ErrorFacts
  /** Whether the server ever let us open one decides what a refusal means. */
  readonly channels: { opened: number }
  /** The end of the connection, whether it said why or not. */
  readonly loss: Loss
  /** Ends the connection at once: after a timeout nothing on it can be trusted any more. */
  readonly destroy: () => void
}

const isChannelFailure = (error: Error): boolean => 'reason' in error || /Unable to exec/.test(error.message)

const openFailure = (error: Error, { facts, channels }: ExecContext): JobError => {
  if (!isChannelFailure(error)) {
    return new JobError('connection_lost', 'the connection ended before the command began', facts, { cause: error })
  }
  return channels.opened === 0
    ? new JobError('ssh_no_sessions', 'the server refused the first channel for a command', facts, { cause: error })
    : new JobError('ssh_channel_refused', 'the server refused to open a channel for a command', facts, { cause: error })
}

/** `exec` throws at once when the connection is gone (ssh2 1.17.0). */
const openChannel = (context: ExecContext, command: string): Promise<ClientChannel> =>
  new Promise((resolve, reject) => {
    try {
      context.client.exec(command, (error, channel) => {
        if (error !== undefined) return reject(openFailure(error, context))
        context.channels.opened++
        resolve(channel)
      })
    } catch (error) {
      reject(new JobError('connection_lost', 'the connection was already closed', context.facts, { cause: error }))
    }
  })

interface Collector {
  readonly add: (chunk: Buffer) => void
  readonly text: () => string
}

/** Each is a packet with all that the runtime keeps about it: some 230 bytes, also where it holds one. */
const MOST_CHUNKS = 1024

const collector = (onOverflow: () => void): Collector => {
  let chunks: Buffer[] = []
  let size = 0
  return {
    add: (chunk) => {
      size += chunk.length
      if (size > MAX_OUTPUT_BYTES) onOverflow()
      else chunks.push(chunk)
      if (chunks.length > MOST_CHUNKS) chunks = [Buffer.concat(chunks)]
    },
    text: () => Buffer.concat(chunks).toString('utf8'),
  }
}

/** Given, so that no error with a stack is made for it. */
const ENDED = 'ended'

/**
 * Looks now and then whether a byte has come since the last look, which is cheaper than a timer for each: silence is
 * noticed after `silenceMs` to twice that.
 */
const watchSilence = (
  channel: ClientChannel,
  { clock, silenceMs, facts, loss }: ExecContext,
  reject: (error: JobError) => void,
): (() => void) => {
  const ended = new AbortController()
  let heard = true
  const hear = (): void => {
    heard = true
  }
  channel.on('data', hear)
  channel.stderr.on('data', hear)
  const watch = async (): Promise<void> => {
    while (heard) {
      heard = false
      await clock.sleep(silenceMs, ended.signal)
    }
    reject(new JobError('ssh_timeout', `the command said nothing for ${silenceMs} ms`, facts))
  }
  watch().catch(() => undefined)
  const forget = loss.onLost(() => ended.abort(ENDED))
  return () => {
    forget()
    ended.abort(ENDED)
  }
}

/** Both outputs are always drained: with 5 MB of either unread, ssh2 never reports the end. */
const collect = (channel: ClientChannel, stdin: string, context: ExecContext): Promise<ExecOutcome> =>
  new Promise((resolve, reject) => {
    const { facts } = context
    const over = watchSilence(channel, context, reject)
    const overflow = (): void => reject(new JobError('output_too_large', 'more output than a job can produce', facts))
    const stdout = collector(overflow)
    const stderr = collector(overflow)
    channel.on('data', stdout.add)
    channel.stderr.on('data', stderr.add)
    channel.on('error', () => undefined)
    channel.stderr.on('error', () => undefined)
    // Not at `exit`: that may have come before we could listen, in the packet that said that the command began.
    channel.on('close', (code?: number | null, signal?: string) => {
      over()
      resolve({ stdout: stdout.text(), stderr: stderr.text(), exitCode: code ?? null, exitSignal: signal ?? null })
    })
    channel.end(stdin)
  })

const limited = <T>(context: ExecContext, work: Promise<T>, ms: number, what: string, signal?: AbortSignal) =>
  withDeadline(orLost(context.loss, work), {
    clock: context.clock,
    ms,
    signal,
    onTimeout: () => new JobError('ssh_timeout', `${what} took longer than ${ms} ms`, context.facts),
    onAbort: () => new JobError('cancelled', `called off: ${what}`, context.facts),
  })

/**
 * A channel that closes without an exit status says nothing about the command. Where the whole connection is gone
 * that is `connection_lost`; the one turn of waiting lets ssh2 report the end of the connection after the channel's.
 */
const settle = async (context: ExecContext, outcome: ExecOutcome): Promise<ExecOutcome> => {
  if (outcome.exitCode !== null || outcome.exitSignal !== null) return outcome
  await orLost(context.loss, new Promise((resolve) => setImmediate(resolve)))
  return outcome
}

const isRefusedChannel = (code: ErrorCode): boolean => code === 'ssh_channel_refused' || code === 'ssh_no_sessions'

/** Runs one command with text on its stdin. On any failure but a refused channel the connection is destroyed. */
export const execOn = async (
  context: ExecContext,
  command: string,
  stdin: string,
  options: ExecOptions,
): Promise<ExecOutcome> => {
  try {
    const opening = openChannel(context, command)
    const ms = Math.min(context.channelTimeoutMs, options.timeoutMs)
    const channel = await limited(context, opening, ms, 'opening a channel', options.signal)
    const running = collect(channel, stdin, context)
    return await settle(context, await limited(context, running, options.timeoutMs, 'the command', options.signal))
  } catch (error) {
    if (!(error instanceof JobError && isRefusedChannel(error.code))) context.destroy()
    throw error
  }
}
