package com.demo;

import java.util.Map;
import org.apache.dubbo.common.URL;
import org.apache.dubbo.rpc.cluster.support.merger.DefaultProviderURLMergeProcessor;

/**
 * Puts a reference's URL together as Dubbo does, and reads it anew: what it puts together has lost which parameters are those of methods, so
 * that a callback would be taken for an argument.
 */
public final class WholeUrl extends DefaultProviderURLMergeProcessor {
    @Override
    public URL mergeUrl(URL remote, Map<String, String> local) {
        URL merged = super.mergeUrl(remote, local);
        return URL.valueOf(merged.toFullString())
                .setScopeModel(merged.getScopeModel())
                .setServiceModel(merged.getServiceModel());
    }
}
