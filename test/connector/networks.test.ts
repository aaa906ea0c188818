import { BlockList, isIP, isIPv4 } from 'node:net'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { kindOf } from '../../src/connector/addresses.ts'
import { contains, type Network, parseAddress, parseNetwork } from '../../src/connector/networks.ts'

const network = (text: string): Network => {
  const parsed = parseNetwork(text)
  if (parsed === null) throw new Error(`not a network: ${text}`)
  return parsed
}
const isIn = (address: string, of: string): boolean => {
  const parsed = parseAddress(address)
  return parsed !== null && contains(network(of), parsed)
}

describe('networks', () => {
  test.each([
    ['10.1.2.3', '10.1.0.0/16', true],
    ['10.2.0.0', '10.1.0.0/16', false],
    ['::ffff:10.1.2.3', '10.1.0.0/16', true],
    ['::ffff:a01:203', '10.1.0.0/16', true],
    ['0:0:0:0:0:FFFF:10.1.2.3', '10.1.2.3', true],
    ['8.8.8.8', '0.0.0.0/0', true],
    ['2001:db8::1', '2001:db8::/32', true],
    ['2001:db9::1', '2001:db8::/32', false],
    ['2001:DB8:0:0::1', '2001:db8::1', true],
    ['1::', '1:0::/16', true],
    ['::1', '::/0', true],
    // What node:net's own list gets wrong.
    ['10.1.2.3', '::/0', false],
    ['::ffff:10.1.2.3', '::/0', false],
    ['::10.1.2.3', '10.0.0.0/8', false],
    ['fe80::1%eth0', 'fe80::/10', false],
  ])('%s in %s: %s', (address, of, expected) => {
    expect(isIn(address, of)).toBe(expected)
  })

  test.each([
    '10.1.2.3/16',
    '10.1.0.0/33',
    '10.1.0.0/-1',
    '10.1.0.0/',
    '10.1',
    '010.1.0.0',
    '0x0a000001',
    '2001:db8::1/32',
    '::/129',
    '::ffff:10.0.0.0/104',
    '::ffff:10.0.0.1',
    'fe80::1%eth0',
    'db-1',
    '',
  ])('%s is no network', (text) => {
    expect(parseNetwork(text)).toBeNull()
  })

  test('agrees with node:net on networks of one family', () => {
    const address = fc.oneof(fc.ipV4(), fc.ipV6())
    const holds = fc.property(address, address, fc.nat(128), (base, other, length) => {
      const parsed = parseAddress(base)
      if (parsed === null || isIP(other) === 0 || isIPv4(base) !== (parsed.family === 4)) return
      const width = parsed.family === 4 ? 32 : 128
      const prefix = Math.min(length, width)
      const rest = BigInt(width - prefix)
      const ours = contains(
        { family: parsed.family, bits: (parsed.bits >> rest) << rest, prefix },
        parseAddress(other) ?? parsed,
      )
      const list = new BlockList()
      const type = parsed.family === 4 ? 'ipv4' : 'ipv6'
      list.addSubnet(base, prefix, type)
      const theirs = list.check(other, isIPv4(other) ? 'ipv4' : 'ipv6')
      expect(ours).toBe(theirs && parseAddress(other)?.family === parsed.family)
    })
    fc.assert(holds, { numRuns: 2000 })
  })

  test.each([
    ['64:ff9b::7f00:1', 'loopback'],
    ['64:ff9b:1::127.0.0.1', 'loopback'],
    ['2002:7f00:1::', 'loopback'],
    ['64:ff9b:1::a9fe:a9fe', 'link_local'],
    ['64:ff9b::100.100.100.200', 'link_local'],
    ['2002:a9fe:a9fe::5', 'link_local'],
    ['fd20:ce::254', 'link_local'],
    ['fd00:c1::a9fe:a9fe', 'link_local'],
    ['no address', 'link_local'],
    ['64:ff9b::10.0.0.1', 'ordinary'],
    ['2002:a00:1::', 'ordinary'],
  ])('%s is %s', (address, kind) => {
    expect(kindOf({ address, family: 6 })).toBe(kind)
  })
})
