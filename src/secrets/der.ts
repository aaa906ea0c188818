/** Just enough of ASN.1 (X.690, DER) to tell the formats of keys apart and to take their fields. */

export const SEQUENCE = 0x30
export const INTEGER = 0x02
export const BIT_STRING = 0x03
export const OCTET_STRING = 0x04

export interface DerItem {
  readonly tag: number
  readonly content: Buffer
}

export class DerError extends Error {
  /** More was announced than there is. */
  readonly cutOff: boolean

  constructor(cutOff: boolean) {
    super('not DER')
    this.cutOff = cutOff
  }
}

const byteAt = (bytes: Buffer, at: number): number => {
  const byte = bytes[at]
  if (byte === undefined) throw new DerError(true)
  return byte
}

/** Where the content begins and ends. Lengths above 24 bits are nothing that a key has. */
const spanOf = (bytes: Buffer): { readonly from: number; readonly to: number } => {
  const first = byteAt(bytes, 1)
  if (first < 0x80) return { from: 2, to: 2 + first }
  const count = first & 0x7f
  if (count === 0 || count > 3) throw new DerError(false)
  byteAt(bytes, 1 + count)
  return { from: 2 + count, to: 2 + count + bytes.readUIntBE(2, count) }
}

/** The first item; what comes after it is `rest`. */
export const readDer = (bytes: Buffer): DerItem & { readonly rest: Buffer } => {
  const tag = byteAt(bytes, 0)
  const { from, to } = spanOf(bytes)
  if (to > bytes.length) throw new DerError(true)
  return { tag, content: bytes.subarray(from, to), rest: bytes.subarray(to) }
}

/** Everything that stands one after another in `content`. */
export const derItems = (content: Buffer): DerItem[] => {
  const items: DerItem[] = []
  for (let rest = content; rest.length > 0; ) {
    const { tag, content: inner, rest: after } = readDer(rest)
    items.push({ tag, content: inner })
    rest = after
  }
  return items
}

/** Not negative, and small enough for a number; what is larger becomes Infinity. */
export const smallInteger = (item: DerItem): number => {
  const hex = item.content.toString('hex')
  return item.content.length <= 6 ? Number.parseInt(hex === '' ? '0' : hex, 16) : Number.POSITIVE_INFINITY
}
