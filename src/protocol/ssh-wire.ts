/** The SSH wire format (RFC 4251, section 5), as far as public keys and certificates need it. */

export const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export const uint64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(value)
  return bytes
}

/** A length-prefixed string (RFC 4251, section 5). */
export const sshString = (value: string | Buffer): Buffer => {
  const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value
  return Buffer.concat([uint32(bytes.length), bytes])
}

/** Reads fields one after another; every read past the end throws a {@link WireError}. */
export interface WireReader {
  bytes(): Buffer
  text(): string
  uint32(): number
  uint64(): bigint
  /** What has not been read yet. */
  rest(): Buffer
  isAtEnd(): boolean
}

export class WireError extends Error {}

export const wireReader = (buffer: Buffer): WireReader => {
  let at = 0
  const take = (length: number): Buffer => {
    if (at + length > buffer.length) throw new WireError('cut off')
    at += length
    return buffer.subarray(at - length, at)
  }
  const bytes = (): Buffer => take(take(4).readUInt32BE())
  return {
    bytes,
    text: () => bytes().toString('latin1'),
    uint32: () => take(4).readUInt32BE(),
    uint64: () => take(8).readBigUInt64BE(),
    rest: () => buffer.subarray(at),
    isAtEnd: () => at === buffer.length,
  }
}

/** Strict base64: what does not encode back to the same text is refused (`null`). */
export const decodeBase64 = (text: string): Buffer | null => {
  const bytes = Buffer.from(text, 'base64')
  return bytes.toString('base64') === text ? bytes : null
}
