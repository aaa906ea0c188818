/**
 * The connector's own private keys: where they are kept, how they are read, what shapes they come in.
 *
 * What lives here: the `Secret` value, one file per store behind one interface, and the parser of private keys. What
 * may enter: a reference to a secret. What never leaves: its content in any printed form. No error, log line or
 * exception made here carries a byte of it, and nothing is written to disk. Which reference may be read at all is
 * not decided here but in `src/connector/guard.ts`.
 */
import { inspect } from 'node:util'

const HIDDEN = '[secret]'

/**
 * A value that cannot be printed by accident: string conversion, JSON and `console.log` all give `[secret]`.
 *
 * The bytes are zeroed by {@link Secret.dispose}. Strings made by {@link Secret.reveal} cannot be, so they are made
 * as late and kept as short as possible.
 */
export interface Secret {
  /** The only way to the content. Throws after `dispose`. */
  reveal(): string
  /** Overwrites the bytes. May be called more than once. */
  dispose(): void
  toString(): string
  toJSON(): string
  [inspect.custom](): string
}

/** Takes over `bytes`: they are zeroed on disposal, so the caller must not keep using them. */
export const secretOf = (content: string | Buffer): Secret => {
  const bytes = typeof content === 'string' ? Buffer.from(content, 'utf8') : content
  let disposed = false
  return Object.freeze({
    reveal: () => {
      if (disposed) throw new Error('this secret was disposed of')
      return bytes.toString('utf8')
    },
    dispose: () => {
      disposed = true
      bytes.fill(0)
    },
    toString: () => HIDDEN,
    toJSON: () => HIDDEN,
    [inspect.custom]: () => HIDDEN,
  })
}
