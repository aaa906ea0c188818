import { Worker } from 'node:worker_threads'
import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import { withDeadline } from '../ssh/deadline.ts'
import type { FoundKey } from './key-armour.ts'
import { malformed } from './key-errors.ts'
import type { WorkerReply, WorkerRequest } from './key-worker.ts'

/** Opens encrypted keys, each in a worker thread of its own that lives no longer than that. */
export interface KeyOpener {
  /**
   * Resolves with what `openKey` returns. Fails as it does; with `secret_malformed` when it takes too long,
   * `internal_error` when the worker ends without an answer, `cancelled` once disposed of. Both buffers are copied
   * before it returns its promise: the caller may zero them.
   */
  open(key: FoundKey, passphrase: Buffer): Promise<Buffer>
  /** Ends every worker. What is opened after that fails. */
  dispose(): void
}

export interface KeyOpenerOptions {
  readonly script?: URL
  /** Milliseconds for one key, from the start of its worker. */
  readonly deadlineMs?: number
}

/** With the default rounds it takes a second on a busy machine. */
const DEADLINE_MS = 30_000
/** The processors belong to everybody else as well. */
const AT_ONCE = 2
const RESOURCES = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 16 }

/** No more than that many at once; the others wait in the order in which they came. */
const createTurns = (atOnce: number): (<T>(work: () => Promise<T>) => Promise<T>) => {
  const waiting: (() => void)[] = []
  let busy = 0
  return async (work) => {
    if (busy < atOnce) busy++
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else busy--
    }
  }
}

const ended = (cause?: unknown): JobError =>
  new JobError('internal_error', 'the worker that opens private keys ended without an answer', {}, { cause })

/** Named, not quoted: an error of a worker may hold anything. */
const nameOf = (error: unknown): string => {
  const { code, name } = error as Partial<NodeJS.ErrnoException>
  return code ?? name ?? typeof error
}

/** The listeners stay, so that nothing that a worker does later is an uncaught error. */
const replyOf = (worker: Worker): Promise<WorkerReply> =>
  new Promise((resolve, reject) => {
    worker.on('message', resolve)
    worker.on('messageerror', () => reject(ended()))
    worker.on('error', (error) => reject(ended(nameOf(error))))
    worker.on('exit', () => reject(ended()))
  })

const startWorker = (script: URL, request: WorkerRequest): Worker => {
  const transferList = [request.key.bytes.buffer as ArrayBuffer, request.passphrase.buffer as ArrayBuffer]
  try {
    return new Worker(script, { workerData: request, transferList, env: {}, execArgv: [], resourceLimits: RESOURCES })
  } catch (error) {
    throw ended(nameOf(error))
  }
}

const openedBy = (reply: WorkerReply): Buffer => {
  if ('opened' in reply) return Buffer.from(reply.opened.buffer, reply.opened.byteOffset, reply.opened.byteLength)
  throw malformed(reply.message, reply.detail)
}

const tooSlow = (ms: number): JobError =>
  malformed(
    `the private key was not decrypted within ${ms} ms`,
    'Encrypt it with fewer rounds: ssh-keygen -p -a 16 -f key   (for a PuTTY key: puttygen key.ppk --reencrypt)',
  )

export const createKeyOpener = (clock: Clock, options: KeyOpenerOptions = {}): KeyOpener => {
  const { script = new URL('./key-worker.ts', import.meta.url), deadlineMs = DEADLINE_MS } = options
  const living = new AbortController()
  const inTurn = createTurns(AT_ONCE)
  const onAbort = (): JobError => new JobError('cancelled', 'the connector is ending')

  const run = async (request: WorkerRequest): Promise<Buffer> => {
    if (living.signal.aborted) throw onAbort()
    const worker = startWorker(script, request)
    try {
      const limits = { clock, ms: deadlineMs, signal: living.signal, onTimeout: () => tooSlow(deadlineMs), onAbort }
      return openedBy(await withDeadline(replyOf(worker), limits))
    } finally {
      // Not waited for: inside OpenSSL a worker ends only when it comes back.
      worker.terminate().catch(() => undefined)
    }
  }

  return {
    open: (key, passphrase) => {
      const request = { key: { ...key, bytes: new Uint8Array(key.bytes) }, passphrase: new Uint8Array(passphrase) }
      return inTurn(() => run(request))
    },
    dispose: () => living.abort(),
  }
}
