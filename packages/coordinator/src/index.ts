/**
 * First-committer-wins commits of page transactions, and the pager on top of them.
 *
 * @since 0.1.0
 */
export * as CompatCoordinator from "./CompatCoordinator.ts"
export * as ConflictIndex from "./ConflictIndex.ts"
export * from "./CoordinatorErrors.ts"
export * as CoordinatorLease from "./CoordinatorLease.ts"
export * as CoordinatorMetrics from "./CoordinatorMetrics.ts"
export * as NativeCoordinator from "./NativeCoordinator.ts"
export * as PageCache from "./PageCache.ts"
export * as Pager from "./Pager.ts"
export * from "./PagerErrors.ts"
export * as RowIdAllocator from "./RowIdAllocator.ts"
export * as RowIdCache from "./RowIdCache.ts"
export * from "./RowIdErrors.ts"
export * as SerializedWriter from "./SerializedWriter.ts"
export * as SharedHeader from "./SharedHeader.ts"
export * from "./SharedHeaderErrors.ts"
export * as SharedHeaderFormat from "./SharedHeaderFormat.ts"
export * as TransactionSlotFormat from "./TransactionSlotFormat.ts"
export * as TransactionSlots from "./TransactionSlots.ts"
export * as WriteSet from "./WriteSet.ts"
