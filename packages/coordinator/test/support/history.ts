/**
 * What transactions did and saw, and the anomalies in it.
 *
 * Every write has a number of its own, the version, of which the page is full. Version 0 is what a page held at the
 * beginning. The order of the versions of a page is the order in which their transactions committed.
 *
 * Named after Adya: G0 (a cycle of overwrites), G1a (reading what was aborted), G1b (reading what was overwritten by its
 * own transaction), G1c (a cycle of overwrites and reads), and beyond that what snapshots forbid (lost update,
 * non-repeatable read, a read that is not of the snapshot) and what serializability forbids (any cycle: write skew).
 */
import { pageSize } from "./database.ts"

export interface TransactionRecord {
  readonly id: number
  /** The highest sequence that it sees. */
  readonly snapshot: bigint
  /** In order: what it found in a page that it had not written itself. */
  readonly reads: Array<{ readonly page: number; readonly version: number }>
  /** In order: what it put into a page. */
  readonly writes: Array<{ readonly page: number; readonly version: number }>
  /** The sequence of its commit, when it is known to have committed; for one that wrote nothing, its snapshot. */
  committed: bigint | undefined
}

export interface Anomaly {
  readonly kind:
    | "G0"
    | "G1a"
    | "G1b"
    | "G1c"
    | "lost update"
    | "non-repeatable read"
    | "not of the snapshot"
    | "not serializable"
    | "sequences"
  readonly what: string
}

/** A page that is full of a version. */
export const pageOf = (version: number): Uint8Array => {
  const bytes = new Uint8Array(pageSize)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < pageSize; at += 4) view.setUint32(at, version)
  return bytes
}

/** The version that a page is full of; throws when it is a mixture. */
export const versionOf = (bytes: Uint8Array): number => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const version = view.getUint32(0)
  for (let at = 4; at < bytes.length; at += 4) {
    if (view.getUint32(at) !== version) throw new Error(`a page is torn between ${version} and ${view.getUint32(at)}`)
  }
  return version
}

type EdgeKind = "ww" | "wr" | "rw"

interface Edge {
  readonly to: number
  readonly kind: EdgeKind
}

const finalWrites = (transaction: TransactionRecord): Map<number, number> =>
  new Map(transaction.writes.map(({ page, version }) => [page, version]))

/** Everything that is wrong with a history under snapshot isolation, or under serializability. */
export const findAnomalies = (
  history: ReadonlyArray<TransactionRecord>,
  isolation: "snapshot" | "serializable"
): ReadonlyArray<Anomaly> => {
  const anomalies: Array<Anomaly> = []
  const report = (kind: Anomaly["kind"], what: string) => anomalies.push({ kind, what })
  const committed = history.filter((transaction) => transaction.committed !== undefined)
  const writers = committed.filter((transaction) => transaction.writes.length > 0)
    .sort((a, b) => Number((a.committed ?? 0n) - (b.committed ?? 0n)))
  writers.forEach((transaction, at) => {
    const before = writers[at - 1]
    if (before !== undefined && before.committed === transaction.committed) {
      report("sequences", `${before.id} and ${transaction.id} have the same sequence ${transaction.committed}`)
    }
  })

  /** Of each page: its committed versions in order, each with its writer. */
  const versions = new Map<number, Array<{ readonly version: number; readonly writer: TransactionRecord }>>()
  const writerOf = new Map<number, TransactionRecord>()
  for (const transaction of history) for (const { version } of transaction.writes) writerOf.set(version, transaction)
  for (const writer of writers) {
    for (const [page, version] of finalWrites(writer)) {
      const chain = versions.get(page) ?? []
      chain.push({ version, writer })
      versions.set(page, chain)
    }
  }

  for (const transaction of history) {
    const seen = new Map<number, number>()
    for (const { page, version } of transaction.reads) {
      const label = `${transaction.id} read version ${version} of page ${page}`
      const writer = writerOf.get(version)
      if (version !== 0) {
        if (writer?.committed === undefined) report("G1a", `${label}, which was not committed`)
        else if (finalWrites(writer).get(page) !== version) {
          report("G1b", `${label}, which ${writer.id} overwrote itself`)
        }
      }
      const before = seen.get(page)
      if (before !== undefined && before !== version) report("non-repeatable read", `${label} after version ${before}`)
      seen.set(page, version)
      const visible = (versions.get(page) ?? []).findLast(({ writer: of }) =>
        (of.committed ?? 0n) <= transaction.snapshot
      )
      if ((visible?.version ?? 0) !== version) {
        report("not of the snapshot", `${label}, but at ${transaction.snapshot} it is ${visible?.version ?? 0}`)
      }
    }
  }

  for (const [page, chain] of versions) {
    // Who read a version and replaced it must have replaced exactly that one.
    chain.forEach(({ writer }, at) => {
      const read = writer.reads.find((candidate) => candidate.page === page)
      const before = at === 0 ? 0 : chain[at - 1]?.version ?? 0
      if (read !== undefined && read.version !== before) {
        report("lost update", `${writer.id} replaced version ${before} of page ${page}, having read ${read.version}`)
      }
    })
  }

  const edges = new Map<number, Array<Edge>>()
  const addEdge = (from: TransactionRecord, to: TransactionRecord | undefined, kind: EdgeKind) => {
    if (to === undefined || to.committed === undefined || from === to) return
    edges.set(from.id, [...edges.get(from.id) ?? [], { to: to.id, kind }])
  }
  for (const chain of versions.values()) {
    chain.forEach(({ writer }, at) => {
      addEdge(writer, chain[at + 1]?.writer, "ww")
    })
  }
  for (const reader of committed) {
    for (const { page, version } of reader.reads) {
      const chain = versions.get(page) ?? []
      const at = chain.findIndex((candidate) => candidate.version === version)
      const writer = chain[at]?.writer
      if (writer !== undefined) addEdge(writer, reader, "wr")
      if (at >= 0 || version === 0) addEdge(reader, chain[at + 1]?.writer, "rw")
    }
  }
  const cycles: ReadonlyArray<readonly [Anomaly["kind"], ReadonlyArray<EdgeKind>]> = [
    ["G0", ["ww"]],
    ["G1c", ["ww", "wr"]],
    ...isolation === "serializable" ? [["not serializable", ["ww", "wr", "rw"]] as const] : []
  ]
  for (const [kind, kinds] of cycles) {
    const cycle = findCycle(committed.map(({ id }) => id), (id) => edges.get(id) ?? [], kinds)
    if (cycle !== undefined) report(kind, cycle.join(" -> "))
  }
  return anomalies
}

const findCycle = (
  ids: ReadonlyArray<number>,
  edgesOf: (id: number) => ReadonlyArray<Edge>,
  kinds: ReadonlyArray<EdgeKind>
): ReadonlyArray<number> | undefined => {
  const done = new Set<number>()
  const path: Array<number> = []
  const visit = (id: number): ReadonlyArray<number> | undefined => {
    if (done.has(id)) return undefined
    const at = path.indexOf(id)
    if (at >= 0) return [...path.slice(at), id]
    path.push(id)
    for (const { kind, to } of edgesOf(id)) {
      if (!kinds.includes(kind)) continue
      const cycle = visit(to)
      if (cycle !== undefined) return cycle
    }
    path.pop()
    done.add(id)
    return undefined
  }
  for (const id of ids) {
    const cycle = visit(id)
    if (cycle !== undefined) return cycle
  }
  return undefined
}
