/** Strings of SSH's binary form: a 32-bit length, then the bytes (RFC 4251, section 5). */
export const sshString = (value: string | Buffer): Buffer => {
  const bytes = Buffer.from(value)
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

/** Reads strings one after another; throws when there is not what was announced. */
export class SshReader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  string(): Buffer {
    const start = this.#at + 4
    if (start > this.#bytes.length) throw new RangeError('the key is cut short')
    const end = start + this.#bytes.readUInt32BE(this.#at)
    if (end > this.#bytes.length) throw new RangeError('the key is cut short')
    this.#at = end
    return this.#bytes.subarray(start, end)
  }

  atEnd(): boolean {
    return this.#at === this.#bytes.length
  }
}
